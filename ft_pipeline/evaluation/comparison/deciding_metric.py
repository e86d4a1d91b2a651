"""What decides a comparison, if the project names no metric (`promotion.metric: auto`).

People who compared the answers come first, then a qualified judge: between the two rows that they compared. Elsewhere a
metric decides: a check that says whether an answer is right, if there is one. Without one, two keys are needed: a
likelihood proposes, and the answers confirm.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ft_pipeline.evaluation.comparison.estimates import Estimates, is_measured
from ft_pipeline.evaluation.comparison.result_records import METRIC_IS_NAMED
from ft_pipeline.evaluation.metrics.definitions import SECOND_KEY

AUTO = "auto"
SHORT_WORDS, SHORT_SHARE = 5, 0.9
"""If this share of the references has at most so many words, exact match decides: the task has one right answer."""


CALLS = "call_arguments"
"""The metric that decides where most answers may call tools."""
MOST = 0.5
"""Share of the test answers whose rows have tools, above which calls decide."""


class Deciding(NamedTuple):
    """The metric that decides."""

    metric: str
    because: str
    """The reason, as a sentence."""
    second_key: str | None = None
    """The metric by which a candidate must also not be worse."""


def deciding_metric(
    named: str,
    config: Mapping[str, Any],
    estimates: Estimates,
    references: Sequence[str] = (),
) -> Deciding:
    """Return the metric that decides where no opinion does.

    named: promotion.metric. config: `decides` (the name of the project's metric with `decides: true`, if there is one).
    references: of all test items. They choose the metric, with the tools of the rows; no result does.
    """
    if named != AUTO:
        return Deciding(named, f"{METRIC_IS_NAMED} {named}.")
    own = config.get("decides")
    if own and is_measured(own, estimates):
        return Deciding(own, f"The check evaluation.metrics.{own} decides.")
    if (with_tools := _share_with_tools(estimates)) > MOST:
        return Deciding(
            CALLS, f"The calls decide: {with_tools:.0%} of the test answers may call tools, with the right arguments."
        )
    short = sum(len(reference.split()) <= SHORT_WORDS for reference in references) / max(1, len(references))
    if short >= SHORT_SHARE and is_measured("exact_match", estimates):
        words = f"{short:.0%} of the reference answers have at most {SHORT_WORDS} words"
        return Deciding("exact_match", f"Exact match decides: {words}.")
    if is_measured("fields_match", estimates):
        return Deciding("fields_match", "The fields of the JSON answers decide: each must have the reference's value.")
    if is_measured("nats_per_byte", estimates):
        because = "Two keys decide: the likelihood of the reference answers (nats per byte), and chrF of the answers."
        return Deciding("nats_per_byte", because, SECOND_KEY)
    if is_measured("loss", estimates):
        because = (
            "Two keys decide: the loss per token, since these scores have no nats per byte, and chrF of the answers."
        )
        return Deciding("loss", because, SECOND_KEY)
    return Deciding(SECOND_KEY, "chrF is shown: no model gives likelihoods. It decides nothing.")


def _share_with_tools(estimates: Estimates) -> float:
    """Return the share of the test answers that are scored by their calls."""
    shares = [
        float(row[CALLS].denominators.sum() / row[SECOND_KEY].denominators.sum())
        for row in estimates.values()
        if CALLS in row and SECOND_KEY in row
    ]
    return max(shares, default=0.0)
