"""comparison.json as records. No other code reads or writes the keys of that document.

The order of the fields is the order of the keys: the file is hashed. A field with a default is one that documents of
older versions may lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ft_pipeline.decide import comparison, notes
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.result_records import (
    BreakEven,
    Changes,
    ContaminatedModel,
    Incomparable,
    KeptPrompt,
    LearningCurve,
    LeftOut,
    QuantizationError,
    SeedSpread,
    Slice,
)
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline.evaluation.model_kinds import BASELINES
from ft_pipeline_tests.version1.json_record import JsonRecord
from ft_pipeline_tests.version1.lead_records import (
    AnswerCheck,
    KeptLead,
    LeadTest,
    PairedDifference,
    RecipeLead,
    Screen,
)
from ft_pipeline_tests.version1.opinion_records import LABELS, Opinion
from ft_pipeline_tests.version1.row_records import ComparisonRow
from ft_pipeline_tests.version1.slice_records import SliceCheck, SliceLead

FIRST_RULES = "1: percentile bootstrap; forgetting against the best base row; no rails"
"""The rules of documents that name none."""
RULES = (
    "3: skew-corrected t over conversations, Wilson for shares; nats per byte; forgetting against the own base; rails"
)
"""The rules of this version."""
OPTIONAL_LISTS = (
    "contaminated",
    "kept_leads",
    "kept_prompts",
    "own_targets",
    "lead_tests",
    "recipe_leads",
    "answer_checks",
    "screens",
    "incumbent_checks",
    "not_asked",
    "without_rivals",
    "opinions",
    "slices",
    "slice_leads",
    "slice_checks",
    "field_results",
    "confusions",
)
"""Keys of the document that are left out if their lists are empty."""
OPTIONAL_KEYS_OF_ROWS = ("base_checks", "learned_from")
"""The same of its rows."""


@dataclass(frozen=True, kw_only=True)
class Comparison(JsonRecord):
    """The document of `ft compare --json`."""

    test_rows: int
    test_items: int
    primary_metric: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """The metrics that some row has, in display order."""
    rows: Sequence[ComparisonRow]
    """Best first by the primary metric; rows that do not have it come last."""
    pairs: Sequence[PairedDifference] = ()
    break_even: Sequence[BreakEven] = ()
    seeds: Sequence[SeedSpread] = ()
    learning_curves: Sequence[LearningCurve] = ()
    quantization_noise: Mapping[str, Sequence[QuantizationError]] = field(default_factory=dict)
    """By experiment."""
    changes: Changes | None = None
    fingerprint: str | None = None
    """Of the evaluation."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """The parts of that fingerprint."""
    left_out: Sequence[LeftOut] = ()
    champion: Mapping[str, Any] | None = None
    """The champion that is compared: `name`, `experiment`, `fingerprint`."""
    rules: str = FIRST_RULES
    """The rules by which it was made: those of its intervals, of forgetting and of rails."""
    contaminated: Sequence[ContaminatedModel] = field(default_factory=list)
    """Tuned models that are not compared because they learned from test rows. They are not in `left_out`."""
    kept_leads: Sequence[KeptLead] = field(default_factory=list)
    """Of the tuned rows other than the best, on the primary metric."""
    lead_tests: Sequence[LeadTest] = field(default_factory=list)
    """Of every row that may be released, for each row that it leads."""
    recipe_leads: Sequence[RecipeLead] = field(default_factory=list)
    """Of the tuned rows that were trained with several seeds."""
    incomparable: Sequence[Incomparable] = field(default_factory=list)
    """The rows that cannot be paired on a metric that one of them has."""
    decided_by: str = ""
    """Why the primary metric is the one that decides."""
    answer_checks: Sequence[AnswerCheck] = field(default_factory=list)
    """The second key, where a likelihood decides: of every row that may be released, for each rival."""
    screens: Sequence[Screen] = field(default_factory=list)
    """The leads on the validation rows of every row that may be released."""
    incumbent_checks: Sequence[AnswerCheck] = field(default_factory=list)
    """Whether every row that may be released is not worse than the incumbent, on the primary metric."""
    not_asked: Sequence[str] = field(default_factory=list)
    """A sentence for each contender that is not compared, because the key of its endpoint was not set."""
    without_rivals: bool = False
    """Whether the settings exclude all rivals."""
    opinions: Sequence[Opinion] = field(default_factory=list)
    """What people, and a judge, say of the answers of every row that may be released, against each other row."""
    slices: Sequence[Slice] = field(default_factory=list)
    """Parts of the test conversations, those of the project's rules first."""
    slice_leads: Sequence[SliceLead] = field(default_factory=list)
    """Of the best rows that may be released, over the champion and the best baseline, in each slice of enough size."""
    slice_checks: Sequence[SliceCheck] = field(default_factory=list)
    """Of every row that may be released and each rival, in each slice that must hold."""
    field_results: Sequence[FieldResults] = field(default_factory=list)
    """Of every row and check of JSON answers."""
    confusions: Sequence[Confusion] = field(default_factory=list)
    """Of every row and classification."""
    kept_prompts: Sequence[KeptPrompt] = field(default_factory=list)
    """Of the tuned rows whose training moved a prompt into the weights."""
    own_targets: Sequence[OwnTarget] = field(default_factory=list)
    """Of each experiment, what its training was to improve on held-out rows; the most important one comes first."""

    def to_json(self) -> dict[str, Any]:
        """Return the document. It has the keys of OPTIONAL_LISTS only if there are entries: most documents never do."""
        document = super().to_json()
        document["rows"] = [
            {key: value for key, value in row.items() if value or key not in OPTIONAL_KEYS_OF_ROWS}
            for row in document["rows"]
        ]
        return {key: value for key, value in document.items() if value or key not in OPTIONAL_LISTS}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Comparison":
        """Return the comparison of a document of any version."""
        from ft_pipeline.decide.documents import whole_comparison_of
        from ft_pipeline_tests.version1.convert import as_version_1

        return as_version_1(whole_comparison_of(document)) if "version" in document else super().from_json(document)

    def metric(self, name: str | None = None) -> Metric:
        """Return a metric, by default the primary one. Metrics that only this task has are defined in `metrics`."""
        metric_name = name or self.primary_metric
        return self.metrics.get(metric_name) or METRICS[metric_name]

    def label(self, check: AnswerCheck) -> str:
        """Return what a check measures: a metric, or the preference of people or of a judge."""
        return LABELS.get(check.metric) or self.metric(check.metric).label

    @property
    def incumbent(self) -> ComparisonRow | None:
        """The row of what answers today; the best one if it has several prompts. None without one."""
        rows = [row for row in self.rows if row.incumbent]
        return next(iter(rows), None)

    # --- what the package says of the same comparison

    @cached_property
    def claims(self) -> comparison.Comparison:
        """The comparison as claims."""
        from ft_pipeline_tests.version1.convert import as_claims

        return as_claims(self)

    @property
    def footnotes(self) -> list[str]:
        """What a reader of the scores must know."""
        return notes.footnotes(self.claims)

    def shown_metrics(self) -> dict[str, Metric]:
        """The metrics worth a column."""
        return notes.shown_metrics(self.claims)

    def is_silent(self, row: ComparisonRow, rival: ComparisonRow) -> bool:
        """Whether nothing that was measured decides between two rows."""
        first, second = self.claims.row(row.name), self.claims.row(rival.name)
        assert first is not None and second is not None
        return self.claims.deciding(first, second).because == "no_evidence"

    # --- its rows and leads

    def row(self, name: str | None) -> ComparisonRow | None:
        """Return the row of that name; None if there is none."""
        return next((row for row in self.rows if row.name == name), None)

    def ranked(self, metric: str | None = None, rows: Sequence[ComparisonRow] | None = None) -> list[ComparisonRow]:
        """Return the rows with a metric, best first. Equal rows keep their order.

        metric: default: the primary one. rows: default: all.
        """
        name, definition = metric or self.primary_metric, self.metric(metric)
        measured = [row for row in (self.rows if rows is None else rows) if name in row.scores]
        return sorted(measured, key=lambda row: definition.rank_key(row.scores[name].value))

    def best_baseline(
        self, metric: str | None = None, *, passages: bool | None = None, of: ComparisonRow | None = None
    ) -> ComparisonRow | None:
        """Return the best usable baseline by a metric, by default the primary one; the best one if none is usable.

        passages: True: only among those that retrieve passages; False: only among the others. of: only among the
        untouched uses of this row's base model, if any was scored: what tuning must beat.
        """
        baselines = [row for row in self.ranked(metric) if row.kind in BASELINES]
        wanted = [row for row in baselines if passages in (None, bool(row.passages))]
        if of is not None and of.base_model is not None:
            wanted = [row for row in wanted if row.base_model == of.base_model] or wanted
        return next((row for row in wanted if row.is_usable), wanted[0] if wanted else None)

    def recipe_leads_of(self, row: ComparisonRow) -> list[RecipeLead]:
        """Return the leads of a row's recipe over the best baseline and the champion; empty if it was trained once."""
        return [lead for lead in self.recipe_leads if lead.row == row.name]

    def difference(
        self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None
    ) -> PairedDifference | None:
        """Return the paired difference in which `better` leads `worse`; None if it does not lead.

        metric: default: the primary one.
        """
        return self._differences.get((better.name, worse.name, metric or self.primary_metric))

    def difference_between(
        self, first: ComparisonRow, second: ComparisonRow, metric: str | None = None
    ) -> PairedDifference | None:
        """Return the paired difference of two rows, whichever leads; None if they were not compared."""
        return self.difference(first, second, metric) or self.difference(second, first, metric)

    def lead_over(self, row: ComparisonRow, rival: ComparisonRow) -> Score | None:
        """Return the lead of a row over a rival on the primary metric, negative if it is behind; None if unknown."""
        if (ahead := self.difference(row, rival)) is not None:
            return Score(ahead.difference, ahead.low, ahead.high)
        if (behind := self.difference(rival, row)) is None:
            return None
        low, high = (None if bound is None else -bound for bound in (behind.high, behind.low))
        return Score(-behind.difference, low, high)

    def clearly_better(self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None) -> bool:
        """Return whether `better` leads `worse` with an interval that excludes zero."""
        lead = self.difference(better, worse, metric)
        return lead is not None and lead.is_clear

    def screen(self, row: ComparisonRow) -> Screen | None:
        """Return the row's lead on the validation rows; None if it was not measured."""
        return next((screen for screen in self.screens if screen.row == row.name), None)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str], PairedDifference]:
        return {(pair.better, pair.worse, pair.metric): pair for pair in self.pairs}
