"""Observations about a comparison besides the decision: one sentence per rule that applies."""

from collections.abc import Callable, Sequence

from ft_pipeline.evaluation.comparison.costs import in_words
from ft_pipeline.evaluation.comparison.sweep_results import curve_in_words, flat, rises, spread_in_words, worst_seed
from ft_pipeline.evaluation.metrics.definitions import metric_of
from ft_pipeline.evaluation.recommendation.evidence import ENOUGH_ROWS, ComparisonFacts, Recommendation, accuracy, named

ENOUGH_TESTS = 30
"""Test conversations below which intervals are wide and their level of 95 % is optimistic."""
ROUNDING = 0.002
"""Nats per token between bf16 and fp32, measured on the worked example: the largest difference of any row's loss."""


def say_rows(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return a warning about few training rows, even if tuning wins."""
    rows = case.train_rows(verdict.row) if verdict.row else None
    if rows is None or rows >= ENOUGH_ROWS or verdict.decision == "more_data":
        return None
    if verdict.row and case.curve(verdict.row):
        return None  # measured: say_curve
    return f"The training data has {rows} rows, under the {ENOUGH_ROWS} that are usually wanted: more should help."


def say_curve(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return whether more rows still help, if it was measured."""
    curve = case.curve(verdict.row) if verdict.row else None
    if curve is None:
        return None
    words = curve_in_words(curve, metric_of(case.document, case.metric))
    if rises(curve):
        return f"More rows still help: {words}"
    if not flat(curve):
        return f"The learning curve does not tell yet whether more rows would help: {words}"
    return f"The learning curve is flat, so that more rows of the same kind promise little: {words}"


def say_seeds(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return the spread between training seeds, and whether the worst seed still beats the best baseline."""
    spread = case.spread(verdict.row) if verdict.row else None
    if spread is None:
        return None
    metric = metric_of(case.document, case.metric)
    words = f"Seeds: {spread_in_words(spread, case.metric, metric)}"
    if case.bar is None or verdict.row is None or not case.ahead(verdict.row):
        return words
    worst, bar = worst_seed(spread, case.metric, metric), case.bar["scores"][case.metric]["value"]
    holds = metric.better(worst, bar)
    return (
        f"{words} The worst of them is {'still better' if holds else 'no better'} than {named(case.bar)} ({bar:.3f})."
    )


def say_prompting(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return the gain of prompting alone over the plain base model."""
    if case.plain is None or case.bar is None or case.bar is case.plain:
        return None
    pair = case.lead(case.bar, case.plain)
    if pair is None:
        return None
    helps = "helps" if pair["low"] > 0 else "does not clearly help"
    return f"Prompting {helps}: {case.words(pair)}"


def say_passages(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return the gain from passages if they do not decide, or that none were tried although tuning did not help."""
    if verdict.decision == "retrieval":
        return None
    with_passages, without = case.with_passages, case.without_passages
    if with_passages is None:
        tried = verdict.decision in ("prompt", "more_data") and case.tuned
        return (
            "No variant with `passages` was scored: if what the answers lack are facts, no tuning of this kind will "
            "bring them, and retrieval may."
            if tried
            else None
        )
    if without is None or not case.passages_help():
        return None
    return (
        f"Passages help the untouched model: {case.words(case.lead(with_passages, without))} A tuned model may be "
        "served with them too."
    )


def say_tokens(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return the cost of the prompt on every call."""
    if case.bar is None or verdict.row is None:
        return None
    prompted, tuned = case.bar["prompt_tokens_per_call"], verdict.row["prompt_tokens_per_call"]
    if prompted <= 1.1 * tuned:
        return None
    return (
        f"Cost: {named(case.bar)} reads {prompted:.0f} prompt tokens per call, {verdict.row['name']} {tuned:.0f} "
        f"({1 - tuned / prompted:.0%} fewer): with many calls, tuning is cheaper to serve."
    )


def say_break_even(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return after how many calls training has paid for itself, or that it never does."""
    entries = case.document.get("break_even", ())
    own = next((entry for entry in entries if verdict.row and entry["tuned"] == verdict.row["name"]), None)
    return f"Break-even: {in_words(own)}" if own else None


def say_forgetting(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return general accuracy before and after training."""
    before, after = accuracy(case.plain), accuracy(verdict.row)
    if before is None or after is None or verdict.row is None:
        return None
    if before - after <= case.margin:
        judged = f"within the margin of {case.margin:g}"
    elif case.forgets(verdict.row):
        judged = f"a clear drop beyond the margin of {case.margin:g}"
    else:
        judged = (
            f"beyond the margin of {case.margin:g}, but its interval includes no drop at all: more questions would tell"
        )
    return f"General accuracy: {before:.3f} before, {after:.3f} after, {judged}."


def say_merge(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return the advice to serve the adapter if the merged model is clearly worse and the adapter does not forget."""
    if verdict.row is None:
        return None
    forms = {row["kind"]: row for row in case.sound if row["experiment"] == verdict.row["experiment"]}
    if len(forms) < 2 or not case.clear(forms["adapter"], forms["merged"]):
        return None
    pair = case.lead(forms["adapter"], forms["merged"])
    return f"Serve the adapter, not the merged model: merging costs quality. {case.words(pair)}"


def say_tuning(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return whether tuning has paid so far, if the teacher is ahead."""
    if verdict.decision != "distillation" or verdict.row is None or case.bar is None:
        return None
    pair = case.lead(verdict.row, case.bar)
    if pair is None or pair["low"] <= 0:
        return f"So far {verdict.row['name']} is not clearly better than {named(case.bar)}."
    return f"So far tuning pays: {case.words(pair)}"


def say_teacher(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return that more distillation promises little, if the teacher is not ahead."""
    if case.teacher is None or verdict.decision == "distillation" or not case.students:
        return None
    pair = case.answers(case.students[0])
    return f"The teacher is not clearly ahead, so distilling more of it promises little. {case.words(pair)}"


def say_tests(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return a warning about a small test split, which makes every statement uncertain."""
    tests = case.document["test_rows"]
    if tests >= ENOUGH_TESTS:
        return None
    return f"The test split has {tests} conversations, under {ENOUGH_TESTS}: the intervals are wide; add data."


def say_types(case: ComparisonFacts, verdict: Recommendation) -> str | None:
    """Return a warning if machines computed rows in different types: rounding is part of their difference."""
    by_type: dict[str, list[str]] = {}
    for row in case.document["rows"]:
        if row.get("computed_in"):
            by_type.setdefault(row["computed_in"], []).append(row["name"])
    if len(by_type) < 2:
        return None
    listed = "; ".join(f"{', '.join(names)} in {dtype}" for dtype, names in sorted(by_type.items()))
    return (
        f"The rows were computed in different types ({listed}). Rounding moves a loss by up to {ROUNDING:g} nats per "
        "token. Score them again on one machine before you trust a smaller difference."
    )


OBSERVATIONS: Sequence[Callable[[ComparisonFacts, Recommendation], str | None]] = (
    say_tuning,
    say_teacher,
    say_prompting,
    say_passages,
    say_tokens,
    say_break_even,
    say_forgetting,
    say_merge,
    say_seeds,
    say_curve,
    say_rows,
    say_tests,
    say_types,
)
