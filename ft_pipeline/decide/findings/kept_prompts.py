"""How much of a prompt's gain stayed in a model that learned to answer as under this prompt (objective `distill`)."""

from collections.abc import Callable, Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.leads import Estimate, Floats, bounds, values_over
from ft_pipeline.evaluation.comparison.result_records import KeptPrompt, Savings

_PLAIN = "base"
"""The kind of the row of a model without a prompt."""


def kept_prompts(
    comparison: Comparison,
    estimates: Mapping[str, Mapping[str, Estimate]],
    experiments: Mapping[str, Mapping[str, Any]],
) -> list[KeptPrompt]:
    """Return an entry per tuned row whose training moved a prompt variant into the weights, on the primary metric.

    experiments: by experiment, facts about its training: `prompt` is the name of this variant. Rows are left out if the
    variant or the plain model was not scored.
    """
    entries = []
    for row in comparison.ranked():
        variant = experiments.get(row.experiment or "", {}).get("prompt")
        if variant is None or not row.rights.is_tuned or row.variant is not None:
            continue
        own = [other for other in comparison.ranked() if other.base_model == row.base_model]
        plain = next((other for other in own if other.kind == _PLAIN), None)
        prompted = next((other for other in own if other.kind == "prompt" and other.source_row == variant), None)
        if plain is not None and prompted is not None:
            entries.append(_entry(comparison, estimates, row, prompted, plain))
    return entries


def _entry(
    comparison: Comparison,
    estimates: Mapping[str, Mapping[str, Estimate]],
    row: Row,
    prompted: Row,
    plain: Row,
) -> KeptPrompt:
    name, metric = comparison.primary, comparison.metric()
    kept, gained = (values_over(plain.name, other.name, name, metric, estimates) for other in (row, prompted))
    share, low, high = share_of_lead(kept, gained) or (None, None, None)
    saved = {key: _difference(getattr(prompted, key), getattr(row, key)) for key in Savings.model_fields}
    return KeptPrompt(
        row=row.name,
        prompt=prompted.name,
        plain=plain.name,
        metric=name,
        share=share,
        low=low,
        high=high,
        saved=Savings(**saved),
    )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def share_of_lead(kept: Floats, gained: Floats) -> tuple[float, float, float] | None:
    """Return the ratio of the means of two leads over the same rival, with its 95 % interval; None if the second one is
    not clearly positive.

    kept, gained: the values of each conversation (leads.lead_values). The interval has every ratio r for which the
    interval of kept − r · gained contains 0 (Fieller 1954, "Some problems in interval estimation").
    """
    low, _ = bounds(gained)
    if low is None or low <= 0:
        return None
    share = float(kept.mean() / gained.mean())
    below = _root(lambda ratio: bounds(kept - ratio * gained)[0] or 0.0, share, -0.5)
    above = _root(lambda ratio: bounds(kept - ratio * gained)[1] or 0.0, share, 0.5)
    return share, below, above


def _root(function: Callable[[float], float], start: float, step: float) -> float:
    """Return where a falling function crosses 0, on that side of `start` to which `step` points."""
    from scipy.optimize import brentq  # a fifth of a second, which most processes need not pay

    end = start + step
    while function(end) * step >= 0:
        step *= 2
        end = start + step
    return float(brentq(function, *sorted((start, end)))) if function(start) * function(end) < 0 else start
