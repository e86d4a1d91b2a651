"""The published claims, each with a verdict that follows from an interval by one rule."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from reproducing.estimates import Estimates, combine, mean, optimum, ratio
from reproducing.trainings import FP4, FP4_DOUBLE, FULL, NF4, NF4_DOUBLE, QUANTIZED_RATE, R8, R32, R85, Arm

from ft_pipeline.evaluation.bootstrap import Estimate, interval

REGRET, QLORA = "Schulman and Thinking Machines Lab 2025", "Dettmers et al. 2023"
KEPT = 0.95
"""Two ways to train match where the second reaches this share of what the first gains over the untouched base."""
ABOUT_TEN = (5.0, 20.0)
"""Ten times, within a factor of two."""
HARDLY = (0.5, 2.0)
"""The same rate, within a factor of two."""
FREE_LOSS = 0.01
"""Nats per answer token that double quantization may cost and count as free."""
FREE_KL = (0.9, 1.1)
"""The same for the divergence, as a ratio."""
Verdict = dict[str, Any]


def verdicts(estimates: Estimates) -> list[Verdict]:
    """Claim, source, study, measured interval and verdict of each claim whose runs are finished."""
    return [verdict for study in (_matrices, _rates, _quantization) for verdict in study(estimates)]


def judge(measured: Estimate, low: float, high: float) -> str:
    """`reproduced` where the 95 % interval is between the bounds, `not reproduced` where all of it is outside on one
    side, else `cannot tell`."""
    bounds = interval(measured)
    if low < bounds["low"] and bounds["high"] < high:
        return "reproduced"
    return "not reproduced" if bounds["high"] <= low or bounds["low"] >= high else "cannot tell"


def _matrices(estimates: Estimates) -> Iterator[Verdict]:
    every, attention, full = (_at_best(estimates, arm) for arm in (R32, R85, FULL))
    if every and attention:
        yield _verdict(
            1,
            "With equal parameters, LoRA on every matrix (r = 32) has a lower loss than on attention alone (r = 85).",
            REGRET,
            "loss of attention alone minus loss of every matrix, in nats per token",
            combine([1, -1], [attention, every]),
            (0, math.inf),
        )
    if every and full and estimates.has_base():
        claim = f"LoRA on every matrix matches training all weights (at least {KEPT:.0%} of its gain)."
        what = "gain of LoRA over the untouched base, by the gain of all weights"
        yield _matches(1, claim, REGRET, what, [combine([1, -1], [estimates.base(), loss]) for loss in (every, full)])


def _rates(estimates: Estimates) -> Iterator[Verdict]:
    rates = {arm: optimum_of(estimates, arm) for arm in (FULL, R8, R32)}
    for arm in (R8, R32):
        if rates[arm] and rates[FULL]:
            yield _ratio_of_rates(
                estimates,
                f"The best learning rate of LoRA (r = {arm.rank}) is about ten times that of all weights.",
                (arm, FULL),
                ABOUT_TEN,
            )
    if rates[R8] and rates[R32]:
        yield _ratio_of_rates(
            estimates, "The best learning rate of LoRA hardly depends on its rank (32 by 8).", (R32, R8), HARDLY
        )


def _ratio_of_rates(estimates: Estimates, claim: str, arms: tuple[Arm, Arm], bounds: tuple[float, float]) -> Verdict:
    top, bottom = (optimum_of(estimates, arm) for arm in arms)
    assert top and bottom
    made = _verdict(2, claim, REGRET, "ratio of the two rates", ratio(top, bottom), bounds)
    edges = [arm.name for arm in arms if at_edge(estimates, arm)]
    if edges:
        made["verdict"] = "cannot tell"
        made["remark"] = f"The lowest loss of {' and '.join(edges)} is at the end of the rates that were tried."
    return made


def _quantization(estimates: Estimates) -> Iterator[Verdict]:
    losses = {arm: estimates.loss(arm, QUANTIZED_RATE) for arm in (R32, NF4_DOUBLE, NF4, FP4_DOUBLE, FP4)}
    forms = (NF4_DOUBLE, NF4, FP4_DOUBLE, FP4)
    what: list[tuple[str, Callable[[Arm], Estimate | None]]] = [("held-out loss after training", losses.get)]
    if estimates.has_base():
        what.append(("divergence of the 4-bit base", estimates.divergence))
    for name, measure in what:
        measured = [measure(arm) for arm in forms]
        if any(value is None for value in measured):
            continue
        nf4_double, nf4, fp4_double, fp4 = (value for value in measured if value)
        yield _verdict(
            3,
            f"NF4 is better than FP4 ({name}).",
            QLORA,
            f"{name} of FP4 minus that of NF4, in nats per token",
            combine([0.5, 0.5, -0.5, -0.5], [fp4_double, fp4, nf4_double, nf4]),
            (0, math.inf),
        )
        double, single = mean([nf4_double, fp4_double]), mean([nf4, fp4])
        claim = f"Double quantization costs nothing ({name})."
        if name.startswith("held-out"):
            added = combine([1, -1], [double, single])
            yield _verdict(3, claim, QLORA, f"{name} that it adds, in nats per token", added, (-FREE_LOSS, FREE_LOSS))
        else:
            yield _verdict(3, claim, QLORA, f"{name} with it, by without", ratio(double, single), FREE_KL)
    sixteen, four = losses[R32], losses[NF4_DOUBLE]
    if sixteen and four and estimates.has_base():
        claim = f"QLoRA on an NF4 base matches LoRA on the base itself (at least {KEPT:.0%} of its gain)."
        what = "gain of QLoRA over the untouched base, by the gain of LoRA"
        yield _matches(3, claim, QLORA, what, [combine([1, -1], [estimates.base(), loss]) for loss in (four, sixteen)])


def _matches(study: int, claim: str, source: str, what: str, gains: list[Estimate]) -> Verdict:
    """Whether the first gain reaches KEPT of the second, which must itself be one."""
    made = _verdict(study, claim, source, what, ratio(*gains), (KEPT, math.inf))
    if interval(gains[1])["low"] <= 0:
        made["verdict"] = "cannot tell"
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


def _verdict(
    study: int, claim: str, source: str, what: str, measured: Estimate, bounds: tuple[float, float]
) -> Verdict:
    """A claim holds where `measured` is between `bounds`."""
    return {
        "study": study,
        "claim": claim,
        "source": source,
        "measured": what,
        **interval(measured),
        "reproduced_between": [None if math.isinf(bound) else bound for bound in bounds],
        "verdict": judge(measured, *bounds),
    }
