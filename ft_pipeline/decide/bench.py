"""What a source of claims sees: the scores of every model, and the comparison with the claims of the sources before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.clusters import Clusters
from ft_pipeline.evaluation.comparison.estimates import Estimates, Samples
from ft_pipeline.evaluation.comparison.leads import Floats, distance_from_ideal, values_over
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel

ONE_SIDED = 0.95
"""Level of a bound where only one side matters."""


class Config(BaseModel):
    """The settings of a comparison: a part of its spec, and so of its hash."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    primary_metric: str
    """promotion.metric: a metric, or `auto` (deciding_metric.py)."""
    notice: str | None = None
    """About the metric."""
    answers_margin: float = 2.0
    """By how much answers may be worse by the second key."""
    incumbent_margin: float = 0.05
    """The same against what answers today."""
    worth: float | None = None
    """The lead for which a training is worth its work, in the unit of `incumbent_margin`; None: the default."""
    forgetting_margin: float = 0.05
    keeps: float = 0.8
    """The share of the best lead that a simpler technique must be shown to keep."""
    rails: Mapping[str, float | None] = {}
    """The ceilings that the project changes, by name; None switches a rail off."""
    bases: Mapping[str, str] = {}
    """Input → fingerprint of the base model that its models come from."""
    base_names: Mapping[str, str] = {}
    """Fingerprint of a base model → its name."""
    contenders: Mapping[str, Mapping[str, Any]] = {}
    """By name: incumbent, ends."""
    probes: Mapping[str, Mapping[str, Any]] = {}
    """By name: expect, must_not, refusal, margin, and digest, a hash of the questions."""
    must_hold: Mapping[str, float] = {}
    """Task → margin."""
    slices: Mapping[str, Mapping[str, Any]] = {}
    """`evaluation.slices` as JSON."""
    labels: Mapping[str, Sequence[str]] | None = None
    """Of classifications, by metric: in their order."""
    prices: Mapping[str, Any] = {}
    """CostSettings."""
    champion: Mapping[str, Any] | None = None
    """Its record: name, experiment, fingerprint, base_model, learned_from."""
    stale: Sequence[str] = ()
    """Sweep members that were not trained again with the rest of their sweep."""
    not_asked: Sequence[str] = ()
    """A sentence for each contender without a key, and for each rival without answers."""
    without_rivals: bool = False
    """Whether the settings exclude all rivals."""
    prompts_tried: int = 0
    """In all searches of a prompt."""


@dataclass(frozen=True)
class Bench:
    """The material of the claims."""

    models: Sequence[ScoredModel]
    """All of them, with sweep members, which have no row."""
    samples: Samples
    estimates: Estimates
    opinions: Sequence[Claim]
    config: Config
    second_key: str | None
    """The metric by which a candidate must also not be worse."""
    conversations: Path | None
    comparison: Comparison
    clusters: Clusters = field(default_factory=dict)

    @property
    def champion(self) -> Row | None:
        return next((row for row in self.comparison.rows if row.kind == "champion"), None)

    @cached_property
    def row_models(self) -> dict[str, ScoredModel]:
        """The models that have a row, by its name."""
        names = {row.name for row in self.comparison.rows}
        return {model.name: model for model in self.models if model.name in names}

    def has(self, metric: str, *names: str) -> bool:
        return all(metric in self.estimates[name] for name in names)

    def values(self, row: str, rival: str, metric: str | None = None) -> Floats:
        """Return the values of a row's lead over a rival: one per conversation, and two invented ones for rates."""
        name = metric or self.comparison.primary
        return values_over(rival, row, name, self.comparison.metric(name), self.estimates)

    def gain(self, row: str, rival: str, metric: str | None = None) -> float:
        """Return the lead itself, without invented conversations."""
        name = metric or self.comparison.primary
        definition = self.comparison.metric(name)
        ours, theirs = (distance_from_ideal(self.estimates[each][name], definition.ideal) for each in (row, rival))
        return (-1.0 if definition.lower_is_better else 1.0) * (ours.value - theirs.value)
