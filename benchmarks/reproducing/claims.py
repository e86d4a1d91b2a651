"""The published claims, each with a conclusion that follows from an interval by one rule."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reproducing.bootstrap import Estimate, interval
from reproducing.estimates import Estimates, combine, mean, optimum, ratio
from reproducing.trainings import (
    COMPARED,
    FP4,
    FP4_DOUBLE,
    FULL,
    NF4,
    NF4_DOUBLE,
    QUANTIZED,
    QUANTIZED_RATE,
    R8,
    R32,
    R85,
    Arm,
)

REGRET, QLORA = "Schulman and Thinking Machines Lab 2025", "Dettmers et al. 2023"
KEPT = 0.95
"""Two ways to train match where the second reaches this share of what the first gains over the untouched base."""
ABOUT_TEN = (5.0, 20.0)
"""Ten times, within a factor of two."""
HARDLY = (0.5, 2.0)
"""The same rate, within a factor of two."""
FREE_LOSS = (-0.01, 0.01)
"""Nats per answer token that double quantization may add and count as free."""
FREE_KL = (0.9, 1.1)
"""The same for the divergence, as a ratio."""
_FREE = "Double quantization costs nothing ({})."
Conclusion = dict[str, Any]


def conclusions(estimates: Estimates) -> list[Conclusion]:
    """Claim, source, study, measured interval and conclusion of each claim whose runs are finished."""
    return [conclusion for study in (_matrices, _rates, _quantization) for conclusion in study(estimates)]


def conclude(measured: Estimate, low: float, high: float) -> str:
    """`reproduced` where the 95 % interval is between the bounds, `not reproduced` where all of it is outside on one
    side, else `cannot tell`."""
    bounds = interval(measured)
    if low < bounds.low and bounds.high < high:
        return "reproduced"
    return "not reproduced" if bounds.high <= low or bounds.low >= high else "cannot tell"


def _matrices(estimates: Estimates) -> Iterator[Conclusion]:
    every, attention, full = (_at_best(estimates, arm) for arm in (R32, R85, FULL))
    if every and attention:
        claim = "With equal parameters, LoRA on every matrix (r = 32) has a lower loss than on attention (r = 85)."
        what = "loss of attention alone minus loss of every matrix, in nats per token"
        made = _conclusion(1, claim, REGRET, what, combine([1, -1], [attention, every]), (0, math.inf))
        yield _unless_at_edge(made, estimates, (R32, R85))
    if every and full and estimates.has_base():
        claim = f"LoRA on every matrix matches training all weights (at least {KEPT:.0%} of its gain)."
        what = "gain of LoRA over the untouched base, by the gain of all weights"
        gains = [combine([1, -1], [estimates.base(), loss]) for loss in (every, full)]
        yield _unless_at_edge(_matches(1, claim, REGRET, what, gains), estimates, (R32, FULL))


def _rates(estimates: Estimates) -> Iterator[Conclusion]:
    rates = {arm: rate for arm in (FULL, R8, R32) if (rate := optimum_of(estimates, arm))}
    ten = "The best learning rate of LoRA (r = {}) is about ten times that of all weights."
    same = "The best learning rate of LoRA hardly depends on its rank ({} by 8)."
    for top, bottom, claim, bounds in (
        (R8, FULL, ten, ABOUT_TEN),
        (R32, FULL, ten, ABOUT_TEN),
        (R32, R8, same, HARDLY),
    ):
        if top in rates and bottom in rates:
            times = ratio(rates[top], rates[bottom])
            made = _conclusion(2, claim.format(top.rank), REGRET, "ratio of the two rates", times, bounds)
            yield _unless_at_edge(made, estimates, (top, bottom))


def _unless_at_edge(made: Conclusion, estimates: Estimates, arms: Sequence[Arm]) -> Conclusion:
    """`cannot tell` where the best rate of an arm may be beyond those that were tried."""
    edges = [arm.name for arm in arms if at_edge(estimates, arm)]
    if not edges:
        return made
    remark = f"The lowest loss of {' and '.join(edges)} is at the end of the rates that were tried."
    return {**made, "conclusion": "cannot tell", "remark": remark}


def _quantization(estimates: Estimates) -> Iterator[Conclusion]:
    losses = {arm: loss for arm in COMPARED if (loss := estimates.loss(arm, QUANTIZED_RATE))}
    if all(arm in losses for arm in QUANTIZED):
        name = "held-out loss after training"
        yield _nf4_against_fp4(name, losses)
        added = combine([1, -1], _double_and_single(losses))
        yield _conclusion(3, _FREE.format(name), QLORA, f"{name} that it adds, in nats per token", added, FREE_LOSS)
    if estimates.has_base():
        name = "divergence of the 4-bit base"
        divergences = {arm: estimates.divergence(arm) for arm in QUANTIZED}
        yield _nf4_against_fp4(name, divergences)
        times = ratio(*_double_and_single(divergences))
        yield _conclusion(3, _FREE.format(name), QLORA, f"{name} with it, by without", times, FREE_KL)
    if estimates.has_base() and R32 in losses and NF4_DOUBLE in losses:
        claim = f"QLoRA on an NF4 base matches LoRA on the base itself (at least {KEPT:.0%} of its gain)."
        what = "gain of QLoRA over the untouched base, by the gain of LoRA"
        gains = [combine([1, -1], [estimates.base(), losses[arm]]) for arm in (NF4_DOUBLE, R32)]
        yield _matches(3, claim, QLORA, what, gains)


def _nf4_against_fp4(name: str, measured: Mapping[Arm, Estimate]) -> Conclusion:
    what = f"{name} of FP4 minus that of NF4, in nats per token"
    four = [measured[arm] for arm in (FP4_DOUBLE, FP4, NF4_DOUBLE, NF4)]
    lead = combine([0.5, 0.5, -0.5, -0.5], four)
    return _conclusion(3, f"NF4 is better than FP4 ({name}).", QLORA, what, lead, (0, math.inf))


def _double_and_single(measured: Mapping[Arm, Estimate]) -> tuple[Estimate, Estimate]:
    """With double quantization and without, each the mean of NF4 and FP4."""
    return mean([measured[NF4_DOUBLE], measured[FP4_DOUBLE]]), mean([measured[NF4], measured[FP4]])


def _matches(study: int, claim: str, source: str, what: str, gains: Sequence[Estimate]) -> Conclusion:
    """Whether the first gain reaches KEPT of the second, which must itself be one."""
    made = _conclusion(study, claim, source, what, ratio(*gains), (KEPT, math.inf))
    if interval(gains[1]).low <= 0:
        made["conclusion"] = "cannot tell"
        made["remark"] = "What it is compared with did not gain over the untouched base."
    return made


def optimum_of(estimates: Estimates, arm: Arm) -> Estimate | None:
    """The learning rate of the lowest loss of `arm`; None where its runs are not finished."""
    rates = estimates.window(arm)
    if rates is None:
        return None
    return optimum(rates, [loss for rate in rates if (loss := estimates.loss(arm, rate))])


def at_edge(estimates: Estimates, arm: Arm) -> bool:
    """Whether the lowest loss is at the first or the last rate, so that the optimum may be beyond."""
    return estimates.best_rate(arm) in (arm.rates[0], arm.rates[-1])


def _at_best(estimates: Estimates, arm: Arm) -> Estimate | None:
    rate = estimates.best_rate(arm)
    return None if rate is None else estimates.loss(arm, rate)


def _conclusion(
    study: int, claim: str, source: str, what: str, measured: Estimate, bounds: tuple[float, float]
) -> Conclusion:
    """A claim holds where `measured` is between `bounds`."""
    return {
        "study": study,
        "claim": claim,
        "source": source,
        "measured": what,
        **asdict(interval(measured)),
        "reproduced_between": [None if math.isinf(bound) else bound for bound in bounds],
        "conclusion": conclude(measured, *bounds),
    }
