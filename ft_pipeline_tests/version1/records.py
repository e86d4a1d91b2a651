"""comparison.json as records. No other code reads or writes the keys of that document.

The order of the fields is the order of the keys: the file is hashed. A field with a default is one that documents of
older versions may lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ft_pipeline.decide.likelihood_evidence import (
    DECIDE_BY,
    LIKELIHOODS,
    learned_rows,
    why_no_evidence,
)
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.result_records import (
    CHAMPION,
    METRIC_IS_NAMED,
    WANTED_RATINGS,
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
from ft_pipeline.evaluation.metrics.definitions import METRICS, PER_TOKEN, Metric
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

ENOUGH_TEST_ROWS = 100
"""With fewer test conversations a comparison is small: intervals are wide, and only large leads show."""
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
        from ft_pipeline.decide.documents import comparison_of
        from ft_pipeline_tests.version1.convert import as_version_1

        return as_version_1(comparison_of(document)) if "version" in document else super().from_json(document)

    @property
    def unusable(self) -> list[str]:
        """A sentence per row whose answers have a fault too often."""
        return [
            f"{row.name}: {'; '.join(rail.describe() for rail in row.breaches)}" for row in self.rows if row.breaches
        ]

    @property
    def champion_fingerprint(self) -> str | None:
        """The fingerprint of the champion that is compared; None if there is none, or if it was not recorded."""
        return (self.champion or {}).get("fingerprint")

    def metric(self, name: str | None = None) -> Metric:
        """Return a metric, by default the primary one. Metrics that only this task has are defined in `metrics`."""
        metric_name = name or self.primary_metric
        return self.metrics.get(metric_name) or METRICS[metric_name]

    def label(self, check: AnswerCheck) -> str:
        """Return what a check measures: a metric, or the preference of people or of a judge."""
        return LABELS.get(check.metric) or self.metric(check.metric).label

    @property
    def ratings_may_decide(self) -> bool:
        """Whether people's opinion decides once they rate enough: the project names no metric."""
        return METRIC_IS_NAMED not in self.decided_by and self.test_items >= WANTED_RATINGS

    def shown_metrics(self) -> dict[str, Metric]:
        """Return the metrics worth a column: first the primary one, then the others in their order.

        Exact match is left out if no answer equals its reference, as for free text, unless it is the primary metric.
        With several tokenizers, losses per token are left out.
        """
        per_token = PER_TOKEN if self.has_several_tokenizers and self.primary_metric not in PER_TOKEN else ()
        shown = {name: metric for name, metric in self.metrics.items() if name not in per_token}
        matches = any(row.scores["exact_match"].value for row in self.rows if "exact_match" in row.scores)
        if not matches and self.primary_metric != "exact_match":
            shown.pop("exact_match", None)
        return dict(sorted(shown.items(), key=lambda entry: entry[0] != self.primary_metric))

    @property
    def incumbent(self) -> ComparisonRow | None:
        """The row of what answers today; the best one if it has several prompts. None without one."""
        rows = [row for row in self.rows if row.incumbent]
        return next(iter(rows), None)

    @property
    def has_several_tokenizers(self) -> bool:
        """Whether the rows differ in vocabulary or template."""
        return len({row.tokens for row in self.rows if row.tokens}) > 1

    @property
    def footnotes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = (
            ["Loss per token is not comparable between tokenizers, and not shown."]
            if self.has_several_tokenizers
            else []
        )
        withheld = {
            (entry.a, entry.because)
            for entry in self.incomparable
            if entry.metric == "nats_per_byte" and (row := self.row(entry.a)) and entry.metric not in row.scores
        }
        notes += [f"{name} has no nats per byte: {because}." for name, because in sorted(withheld)]
        notes += self._learned_otherwise()
        notes += [opinion.describe_fully() for opinion in self.opinions_told]
        files = [(row, row.gguf) for row in self.rows if row.gguf is not None]
        notes += self._worst_of_best()
        return notes + [f"{row.name}: {costs.describe(f'{row.experiment}/merged')}." for row, costs in files]

    def _learned_otherwise(self) -> list[str]:
        """Return what the likelihoods of models that do not imitate mean."""
        learned = [f"{clause}, not to imitate." for clause in learned_rows(self.rows)]
        if not learned:
            return []
        if self._names_likelihood:
            means = f"Their answers may be better where {self.metric().label} is worse. The project names this metric."
        elif self.primary_metric in LIKELIHOODS:
            means = f"The likelihood of the references is no evidence for or against them: {DECIDE_BY}."
        else:
            means = "The likelihood of the references is no evidence for or against them."
        return [" ".join([*learned, means])]

    @property
    def _names_likelihood(self) -> bool:
        """Whether the project names a likelihood as the metric that decides."""
        return METRIC_IS_NAMED in self.decided_by and self.primary_metric in LIKELIHOODS

    def why_no_likelihood(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why the likelihood of the references says nothing about two rows, as a clause; None if it does, or if
        the project names it."""
        return None if self._names_likelihood else why_no_evidence(row, rival)

    def why_no_metric(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why the metric that decides says nothing about two rows; None if it does."""
        return self.why_no_likelihood(row, rival) if self.primary_metric in LIKELIHOODS else None

    def why_undecided(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why nothing that was measured decides between two rows; None if an opinion or the metric can."""
        return None if self.deciding_opinion(row, rival) is not None else self.why_no_metric(row, rival)

    @property
    def opinions_told(self) -> list[Opinion]:
        """Return the opinions that readers see: those between a row and what it must beat, or the champion, or what
        answers today, each pair once."""
        told: dict[tuple[str, ...], Opinion] = {}
        for opinion in self.opinions:
            row, rival = self.row(opinion.row), self.row(opinion.rival)
            if row is None or rival is None or row.kind == CHAMPION:
                continue
            if rival.incumbent or rival.kind == CHAMPION or self.bar_of(row) is rival:
                told.setdefault((*sorted((row.name, rival.name)), opinion.by), opinion)
        return list(told.values())

    def _worst_of_best(self) -> list[str]:
        """Return what the checks found wrong most often in the answers of the best row."""
        best = self.rows[0].name if self.rows else None
        results: list[FieldResults | Confusion] = [*self.field_results, *self.confusions]
        return [sentence for result in results if result.row == best for sentence in result.describe_worst()]

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

    def plain_of(self, row: ComparisonRow | None) -> ComparisonRow | None:
        """Return the base model of a row without a prompt; the best one for None, or if its own was not scored."""
        plain = [base for base in self.ranked() if base.kind == "base"]
        own = [base for base in plain if row is not None and base.base_model == row.base_model]
        return next(iter(own or plain), None)

    def bar_of(self, row: ComparisonRow) -> ComparisonRow | None:
        """Return the baseline that a candidate must beat: the best use of its base model; for a prompt variant, the
        base model without a prompt."""
        return self.plain_of(row) if row.kind == "prompt" else self.best_baseline(of=row)

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

    def opinions_on(self, row: ComparisonRow, rival: ComparisonRow) -> list[Opinion]:
        """Return the opinions about a row's answers against those of a rival; that of people comes first."""
        return [opinion for opinion in self.opinions if (opinion.row, opinion.rival) == (row.name, rival.name)]

    def deciding_opinion(self, row: ComparisonRow, rival: ComparisonRow) -> Opinion | None:
        """Return the opinion that decides between two rows, in place of the metric; None if the metric decides."""
        return next((opinion for opinion in self.opinions_on(row, rival) if opinion.may_decide), None)

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str], PairedDifference]:
        return {(pair.better, pair.worse, pair.metric): pair for pair in self.pairs}
