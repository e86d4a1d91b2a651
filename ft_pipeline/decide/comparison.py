"""A comparison: the rows that were scored, and the claims about them. Written as comparison.json by pydantic."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.decide.claim import Claim, OpinionFacts
from ft_pipeline.decide.kinds import KINDS, Kind
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults
from ft_pipeline.evaluation.comparison.result_records import (
    CHAMPION,
    WANTED_RATINGS,
    BreakEven,
    Changes,
    ContaminatedModel,
    GgufCosts,
    Incomparable,
    KeptPrompt,
    LearningCurve,
    LeftOut,
    QuantizationError,
    ScoredTwice,
    SeedSpread,
    Slice,
    TrainingCost,
)
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.metrics.definitions import METRICS, SECOND_KEY, Metric
from ft_pipeline.evaluation.model_kinds import ModelKind, complexity

OPTIONAL = (
    *("clusters", "worth", "contaminated", "without_rivals", "prompts_tried", "scored_twice", "not_asked"),
    *("kept_prompts", "own_targets", "slices", "field_results", "confusions", "names_metric"),
)
"""Keys of the document that are left out if their lists are empty."""
MIN_CLUSTERS = 15
"""Number of clusters from which something is decided: with fewer, equal models are called different too often."""
BY = ("people", "judge")
"""Whose opinion decides between two rows in place of the metric, the surer first."""


class Row(BaseModel):
    """One model under one prompt: what it is, what it scored, and what a call costs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: ModelKind
    experiment: str | None = None
    technique: str | None = None
    base_model: str | None = None
    """The base model that it is, or was trained from. None: another server's, or not recorded."""
    learned_from: str | None = None
    """`preferences` or `rewards`: its likelihood of the references is no evidence. None if it imitates."""
    variant: str | None = None
    """The prompt variant under which a tuned model was scored; None for its own prompt, and for other models."""
    passages: int = 0
    """Number of passages that are retrieved per call."""
    scores: Mapping[str, Score]
    general: Mapping[str, Any] | None = None
    """Results of the general suite: `accuracy`, `loss`; None if it was not run."""
    validation: Score | None = None
    """Nats per byte on the validation rows; None if it was not measured."""
    prompt_tokens_per_call: float | None = None
    shared_prompt_tokens: int = 0
    """Number of prompt tokens that all calls begin with."""
    generated_tokens_per_call: float | None = None
    seconds_per_call: float | None = None
    timed_in: str | None = None
    """The run in which seconds per call were measured. None: not recorded."""
    cost_per_call: float | None = None
    cut_off: int = 0
    """Answers that reached the maximum length."""
    max_new_tokens: int | None = None
    """The longest answer, in its own tokens."""
    trainable_params: int = 0
    training: TrainingCost | None = None
    gguf: GgufCosts | None = None
    """None for all rows but GGUF files."""
    incumbent: bool = False
    """Whether it is what answers today, and is to be replaced by a model that is not worse."""
    ends: str | None = None
    """The day on which it is switched off (ISO 8601): then it is never what is recommended."""
    fingerprint: str | None = None
    """Of the evaluation."""
    tokens: str | None = None
    """Fingerprint of its vocabulary and template. Losses per token are comparable only within one."""
    computed_in: str | None = None
    """The data type of the computation. None: scored by a server, or before this was recorded."""
    source: str = ""
    """The input that it was read from, `<experiment>/<asset>`."""
    source_row: str = ""
    """Its name in scores.json."""

    @property
    def rights(self) -> Kind:
        return KINDS[self.kind]

    @property
    def cost_per_1000(self) -> float | None:
        return None if self.cost_per_call is None else 1000 * self.cost_per_call

    @property
    def accuracy(self) -> float | None:
        """The general accuracy; None if it was not measured."""
        return (self.general or {}).get("accuracy")

    @property
    def complexity(self) -> tuple[int, bool]:
        """How much it needs, to be sorted: its technique, then whether it has a prompt variant besides."""
        return complexity(self.technique), self.variant is not None


class Comparison(BaseModel):
    """The document of `ft compare --json`, with a method for each role that a row can have."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[2] = 2
    test_rows: int
    """Number of test conversations."""
    clusters: int | None = None
    """Number of clusters of like questions, the units of statistics. None: each conversation is one."""
    test_items: int
    primary_metric: str
    rules: str
    """The rules by which it was made: those of its intervals, of forgetting and of rails."""
    fingerprint: str | None = None
    """Of the evaluation."""
    worth: float | None = None
    """`promotion.worth`; None: the default."""
    decided_by: str = ""
    """Why the primary metric is the one that decides."""
    names_metric: bool = False
    """Whether the project names it. Then no opinion decides."""
    metrics: Mapping[str, Metric] = {}
    """The metrics that some row has, in display order."""
    champion: Mapping[str, Any] | None = None
    """The champion that is compared: `name`, `experiment`, `fingerprint`."""
    rows: Sequence[Row]
    """Best first by the primary metric; rows that do not have it come last."""
    claims: Sequence[Claim] = ()
    contaminated: Sequence[ContaminatedModel] = ()
    """Tuned models that are not compared because they learned from test rows. They are not in `left_out`."""
    left_out: Sequence[LeftOut] = ()
    not_asked: Sequence[str] = ()
    """A sentence for each contender that is not compared, because the key of its endpoint was not set, and for each row
    without a language model that has no answers."""
    without_rivals: bool = False
    """Whether the settings exclude all rows without a language model."""
    prompts_tried: int = 0
    """Number of prompts that were tried on the validation rows, the best of which is compared. 0: none was searched."""
    incomparable: Sequence[Incomparable] = ()
    """The rows that cannot be paired on a metric that one of them has."""
    scored_twice: ScoredTwice | None = None
    """What rounding changes in the scores of a prompt; None in comparisons of older scores."""
    evaluation: Mapping[str, Any] = {}
    """The parts of `fingerprint`."""
    break_even: Sequence[BreakEven] = ()
    seeds: Sequence[SeedSpread] = ()
    learning_curves: Sequence[LearningCurve] = ()
    quantization_noise: Mapping[str, Sequence[QuantizationError]] = {}
    """By experiment."""
    changes: Changes | None = None
    kept_prompts: Sequence[KeptPrompt] = ()
    """Of the tuned rows whose training moved a prompt into the weights."""
    own_targets: Sequence[OwnTarget] = ()
    """Of each experiment, what its training was to improve on held-out rows; the most important one comes first."""
    slices: Sequence[Slice] = ()
    """Parts of the test conversations, those of the project's rules first."""
    field_results: Sequence[FieldResults] = ()
    """Of every row and check of JSON answers."""
    confusions: Sequence[Confusion] = ()
    """Of every row and classification."""

    @property
    def primary(self) -> str:
        return self.primary_metric

    @property
    def units(self) -> int:
        """Number of independent parts of the test: clusters of conversations."""
        return self.test_rows if self.clusters is None else self.clusters

    @property
    def conversations(self) -> str:
        """The number of test conversations in words, with that of their clusters if there are fewer."""
        words = f"{self.test_rows:,} conversations"
        return words if self.units == self.test_rows else f"{words} in {self.units:,} clusters of like questions"

    def has_few_clusters(self, min_test_rows: int) -> bool:
        """Return whether conversations are so much alike that nothing is decided.

        min_test_rows: of the settings; a project that decides on fewer conversations decides on as few clusters.
        """
        return self.units < min(MIN_CLUSTERS, min_test_rows, self.test_rows)

    def with_claims(self, claims: Iterable[Claim]) -> "Comparison":
        """Return the comparison with further claims, which later sources and the rules then see."""
        return self.changed(claims=[*self.claims, *claims])

    def changed(self, **fields: Any) -> "Comparison":
        """Return the comparison with other fields, and without what was computed from the old ones."""
        return self.model_construct(**{**{name: getattr(self, name) for name in type(self).model_fields}, **fields})

    def to_json(self) -> dict[str, Any]:
        """Return the document. It has the keys of OPTIONAL only if there are entries: most comparisons never do. Claims
        have no keys whose values are the default."""
        document = self.model_dump(mode="json", exclude={"claims"})
        claims = [claim.to_json() for claim in self.claims]
        return {**{key: value for key, value in document.items() if value or key not in OPTIONAL}, "claims": claims}

    # --- claims

    @cached_property
    def _index(self) -> dict[tuple[str, str], list[Claim]]:
        index = defaultdict(list)
        for claim in self.claims:
            index[claim.kind, claim.row].append(claim)
        return index

    def about(self, row: Row, *kinds: str, **wanted: Any) -> list[Claim]:
        """Return the claims of these kinds about a row. wanted: values of their fields."""
        claims = (claim for kind in kinds for claim in self._index.get((kind, row.name), ()))
        return [claim for claim in claims if all(getattr(claim, key) == value for key, value in wanted.items())]

    def of_kind(self, kind: str) -> list[Claim]:
        """Return all claims of a kind."""
        return [claim for claim in self.claims if claim.kind == kind]

    def lead(self, row: Row, rival: Row, metric: str | None = None) -> Claim | None:
        """Return the lead of a row over a rival, seen from the row; None if they cannot be compared."""
        measure = metric or self.primary
        own = self.about(row, "lead", rival=rival.name, measure=measure)
        theirs = self.about(rival, "lead", rival=row.name, measure=measure)
        return next(iter([*own, *(claim.reversed for claim in theirs)]), None)

    def deciding(self, row: Row, rival: Row) -> Claim:
        """Return the claim that decides between two rows: the opinion of people, then that of a judge that agrees with
        them, then the lead on the primary metric."""
        opinions = self.about(row, "opinion", rival=rival.name)
        decides = [claim for claim in opinions if claim.told(OpinionFacts).may_decide]
        unknown = Claim(kind="lead", row=row.name, rival=rival.name, measure=self.primary, verdict="unknown")
        return next(iter(decides), None) or self.lead(row, rival) or unknown

    def ahead(self, row: Row, rival: Row, metric: str | None = None) -> Claim | None:
        """Return the lead between two rows, seen from the one that is ahead; None if they cannot be compared."""
        pair = (row, rival) if self.leads(row, rival, metric) else (rival, row)
        return self.lead(*pair, metric) if self.leads(*pair, metric) else None

    def lead_over(self, row: Row, rival: Row) -> Score | None:
        """Return the lead of a row over a rival as a value, negative if it is behind; None if unknown."""
        lead = self.lead(row, rival)
        return None if lead is None or lead.value is None else Score(lead.value, lead.low, lead.high)

    def is_unheard(self, opinion: Claim) -> bool:
        """Return whether a rival is clearly preferred, by too few people or a judge that does not decide."""
        may_decide = opinion.told(OpinionFacts).may_decide
        return opinion.verdict == "refuted" and not may_decide and not self.names_metric

    def is_silent(self, row: Row, rival: Row) -> bool:
        """Return whether the metric that decides says nothing about two rows."""
        lead = self.lead(row, rival)
        return lead is not None and lead.because == "no_evidence"

    def leads(self, row: Row, rival: Row, metric: str | None = None) -> bool:
        """Return whether a row is before a rival, by however little: of equal rows, the first one."""
        claims = self.about(row, "lead", rival=rival.name, measure=metric or self.primary)
        return any(claim.verdict != "unknown" for claim in claims)

    def better(self, row: Row, rival: Row, metric: str | None = None) -> bool:
        """Return whether a row clearly leads a rival on a metric."""
        claim = self.lead(row, rival, metric)
        return claim is not None and claim.verdict == "shown"

    @cached_property
    def has_two_keys(self) -> bool:
        """Whether a candidate's answers must not be worse, where a likelihood decides."""
        return any(claim.kind == "answers" for claim in self.claims)

    @property
    def champion_fingerprint(self) -> str | None:
        """The fingerprint of the champion that is compared; None if there is none, or if it was not recorded."""
        return (self.champion or {}).get("fingerprint")

    @property
    def contaminated_champion(self) -> ContaminatedModel | None:
        """The champion's entry in `contaminated`."""
        return next((entry for entry in self.contaminated if entry.model == CHAMPION), None)

    @property
    def contaminated_experiments(self) -> list[ContaminatedModel]:
        """The experiments in `contaminated`."""
        return [entry for entry in self.contaminated if entry.model != CHAMPION]

    # --- roles

    def row(self, name: str | None) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def metric(self, name: str | None = None) -> Metric:
        return self.metrics.get(name or self.primary) or METRICS[name or self.primary]

    def ranked(self, metric: str | None = None, rows: Sequence[Row] | None = None) -> list[Row]:
        """Return the rows with a metric, by default the primary one, best first. Equal rows keep their order."""
        name, definition = metric or self.primary, self.metric(metric)
        measured = [row for row in (self.rows if rows is None else rows) if name in row.scores]
        return sorted(measured, key=lambda row: definition.rank_key(row.scores[name].value))

    @property
    def ratings_may_decide(self) -> bool:
        """Whether people's opinion decides once they rate enough: the project names no metric."""
        return not self.names_metric and self.test_items >= WANTED_RATINGS

    @property
    def incumbent(self) -> Row | None:
        """The row of what answers today: of several prompts, the best one. None if nothing answers today."""
        return next((row for row in self.rows if row.incumbent), None)

    def tuned(self) -> list[Row]:
        return [row for row in self.ranked() if row.rights.is_tuned]

    def informs(self, row: Row) -> bool:
        """Return whether a row depends on the question: it is before the constant answer, and no answers without a
        language model are clearly more similar to the references where a likelihood decides."""
        constant = self.constant
        return (constant is None or self.leads(row, constant)) and not any(self.more_similar(row))

    def more_similar(self, row: Row) -> Iterator[Claim]:
        """Yield how far a row clearly trails answers without a language model by the second key, where a likelihood
        decides."""
        rivals = (rival for rival in self.rows if rival.rights.without_model and self.has_two_keys)
        claims = (self.lead(row, rival, SECOND_KEY) for rival in rivals)
        return (claim for claim in claims if claim is not None and claim.verdict == "refuted")

    def why_screened_out(self, row: Row) -> Claim | None:
        """Return the claim that a tuned model, or that of a GGUF file, does not lead on the validation rows. None if
        people may see its test scores."""
        model = self.row(f"{row.experiment}/merged") if row.kind == "gguf" else row
        found = self.about(model, "screen", verdict="refuted") if model and model.rights.is_tuned else []
        return next(iter(found), None)

    def usable(self, row: Row) -> bool:
        """Return whether no fault of its answers is too common."""
        return not self.breaches(row)

    def breaches(self, row: Row) -> list[Claim]:
        """Return the faults of its answers that are too common."""
        return self.about(row, "rail", verdict="refuted")

    def sound(self, row: Row) -> bool:
        """Return whether it is usable, and not shown to have lost anything that its base model had."""
        return self.usable(row) and not self.about(row, "general", "probes", "task", verdict="refuted")

    def bars(self, of: Row | None = None) -> list[Row]:
        """Return the untouched uses of a row's base model, or of all, and the answers without a language model, best
        first."""
        bars = [row for row in self.ranked() if row.rights.is_bar]
        own = [row.name for row in bars if of is not None and row.base_model == of.base_model is not None]
        return [row for row in bars if row.rights.without_model or not own or row.name in own]

    def best_bar(self, of: Row | None = None) -> Row | None:
        """Return the best usable one of them; the best one if none is usable."""
        return self._first_usable(self.bars(of))

    def best_prompt(self, of: Row | None = None, *, passages: bool | None = None) -> Row | None:
        """Return the best usable untouched use of a row's base model, or of any; the best one if none is usable."""
        bars = [row for row in self.bars(of) if not row.rights.without_model]
        return self._first_usable([row for row in bars if passages in (None, bool(row.passages))])

    def _first_usable(self, rows: Sequence[Row]) -> Row | None:
        return next((row for row in rows if self.usable(row)), rows[0] if rows else None)

    @property
    def constant(self) -> Row | None:
        """The constant answer, where the primary metric says something about it; None otherwise."""
        return next((row for row in self.ranked() if row.kind == "constant"), None)

    def plain(self, of: Row | None = None) -> Row | None:
        """Return the base model of a row without a prompt; the best one if its own was not scored."""
        plain = [row for row in self.ranked() if row.kind == "base"]
        own = [row for row in plain if of is not None and row.base_model == of.base_model]
        return next(iter(own or plain), None)

    def bar(self, row: Row) -> Row | None:
        """Return what a candidate must beat: the best untouched use of its base model, or answers without a language
        model if they are better; a prompt, the plain model; a classifier, the constant answer."""
        if row.rights.without_model:
            return self.constant or self.plain()
        return self.plain(row) if row.kind == "prompt" else self.best_bar(row)

    def rivals(self, row: Row) -> list[Row]:
        """Return what a candidate must beat: its bar, and the constant answer."""
        found = {rival.name: rival for rival in (self.bar(row), self.constant) if rival is not None}
        return [rival for name, rival in found.items() if name != row.name]
