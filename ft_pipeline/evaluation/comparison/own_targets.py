"""The held-out target of each training, with an interval: whether it improved what it was made to improve.

The best step was chosen on the same rows, so that its value is a little too good. Test rows are never read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Difference, Estimate, difference, interval
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.settings.experiment import Objective
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.objectives.targets import HELD_OUT, Target


def own_targets(adapter: Artifact, experiment: str = "") -> list[OwnTarget]:
    """Return the targets of an adapter's objective, the most important first. Adapters of older versions have none."""
    if not (adapter.path / HELD_OUT).is_file():
        return []
    objective, document = adapter.spec["config"]["experiment"]["objective"], adapter.document(HELD_OUT)
    return [
        _measure(target, document, experiment, objective)
        for target in OBJECTIVES[objective].targets
        if target.measure in document["measures"]
    ]


def _measure(target: Target, document: Mapping[str, Any], experiment: str, objective: Objective) -> OwnTarget:
    items, measured = np.asarray(document["items"], dtype=float), document["measures"][target.measure]
    before, after = (
        Estimate(np.asarray(measured[when], dtype=float), items, measured["is_rate"]) for when in ("first", "best")
    )
    if target.at_start is None:
        start, gain = before.value, difference(after, before, lower_is_better=target.lower_is_better)
    else:
        start, gain = target.at_start, _gain_over(target.at_start, after)
    return OwnTarget(
        experiment=experiment,
        objective=objective,
        label=target.label,
        unit=target.unit,
        lower_is_better=target.lower_is_better,
        conversations=len(items),
        before=start,
        after=after.value,
        gain=gain.difference,
        low=gain.low,
        high=gain.high,
    )


def _gain_over(start: float, after: Estimate) -> Difference:
    """Return the gain over a value that is known, with its 95 % interval."""
    score = interval(after)
    low, high = (None if end is None else end - start for end in (score.low, score.high))
    return Difference(score.value - start, low, high)
