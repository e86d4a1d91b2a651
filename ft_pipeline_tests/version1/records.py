"""comparison.json as records. No other code reads or writes the keys of that document.

The order of the fields is the order of the keys: the file is hashed. A field with a default is one that documents of
older versions may lack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import METRICS, Metric
from ft_pipeline_tests.version1.json_record import JsonRecord
from ft_pipeline_tests.version1.lead_records import (
    AnswerCheck,
    KeptLead,
    LeadTest,
    PairedDifference,
    RecipeLead,
    Screen,
)
from ft_pipeline_tests.version1.opinion_records import Opinion
from ft_pipeline_tests.version1.row_records import ComparisonRow
from ft_pipeline_tests.version1.slice_records import SliceCheck, SliceLead

FIRST_RULES = "1: percentile bootstrap; forgetting against the best base row; no rails"
"""The rules of documents that name none."""
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

    def metric(self, name: str | None = None) -> Metric:
        """Return a metric, by default the primary one. Metrics that only this task has are defined in `metrics`."""
        metric_name = name or self.primary_metric
        return self.metrics.get(metric_name) or METRICS[metric_name]

    @property
    def incumbent(self) -> ComparisonRow | None:
        """The row of what answers today; the best one if it has several prompts. None without one."""
        rows = [row for row in self.rows if row.incumbent]
        return next(iter(rows), None)

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

    def difference(
        self, better: ComparisonRow, worse: ComparisonRow, metric: str | None = None
    ) -> PairedDifference | None:
        """Return the paired difference in which `better` leads `worse`; None if it does not lead.

        metric: default: the primary one.
        """
        return self._differences.get((better.name, worse.name, metric or self.primary_metric))

    @cached_property
    def _differences(self) -> dict[tuple[str, str, str], PairedDifference]:
        return {(pair.better, pair.worse, pair.metric): pair for pair in self.pairs}
