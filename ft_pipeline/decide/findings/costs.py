"""The costs of trainings and of calls, and after how many calls the cheaper calls have paid for the training."""

import math
from collections.abc import Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.evaluation.comparison.result_records import BreakEven, Savings, TrainingCost
from ft_pipeline.pace import format_duration

TOKEN_PRICES = ("input_per_million", "output_per_million")


def with_costs(row: Row, trained: Mapping[str, Any], prices: Mapping[str, Any]) -> Row:
    """Return the row with `training`, whose cost is known if a GPU-hour has a price, and `cost_per_call`.

    trained: facts about its training: `took` (from training_time) and `labels`, if they are known. prices:
    CostSettings. A cost per call that the row already has (a teacher's) is kept.
    """
    time = trained.get("took")
    training = None if time is None else _training_cost(time, trained.get("labels", 0), prices)
    cost_per_call = _cost_per_call(row, prices) if row.cost_per_call is None else row.cost_per_call
    return row.model_copy(update={"training": training, "cost_per_call": cost_per_call})


def _training_cost(time: Mapping[str, Any], labeled: int, prices: Mapping[str, Any]) -> TrainingCost:
    """Return what a training cost: device time, the bill of the teacher, and the labels of its rows.

    labeled: rows that people wrote or labeled.
    """
    hour, label, bill = prices.get("gpu_hour"), prices.get("label"), time.get("teacher")
    labels = None if label is None else label * labeled
    cost = None if hour is None else hour * time["gpu_hours"] + (bill or 0.0) + (labels or 0.0)
    return TrainingCost(
        seconds=time["seconds"],
        gpu_hours=time["gpu_hours"],
        cost=cost,
        teacher=bill,
        labels=labels,
        unfinished=time.get("unfinished"),
    )


def _cost_per_call(row: Row, prices: Mapping[str, Any]) -> float | None:
    """Return the cost of a call by tokens, or by GPU seconds if tokens have no price; None if unknown.

    Tokens that all calls begin with have a price of their own if there is one.
    """
    if row.kind in ("teacher", "contender"):
        return None  # these prices are not those of the teacher
    token_prices = tuple(prices.get(name) for name in TOKEN_PRICES)
    token_counts = (row.prompt_tokens_per_call, row.generated_tokens_per_call)
    if row.rights.without_model and prices.get("gpu_hour") is None:
        return 0.0 if any(token_prices) else None  # it has no tokens
    if any(token_prices) and not row.rights.without_model:
        per_million = sum((count or 0) * (price or 0) for count, price in zip(token_counts, token_prices, strict=True))
        cached = prices.get("cached_input_per_million")
        saved = 0.0 if cached is None else row.shared_prompt_tokens * ((token_prices[0] or 0.0) - cached)
        return (per_million - saved) / 1e6
    gpu_hour_price = prices.get("gpu_hour")
    return (
        None if gpu_hour_price is None or row.seconds_per_call is None else gpu_hour_price * row.seconds_per_call / 3600
    )


def break_even(comparison: Comparison, prices: Mapping[str, Any]) -> list[BreakEven]:
    """Return per tuned row, best first, the savings per call and how many calls pay for the training.

    Savings are against the best baseline of its base model; a row without one has no entry. `calls_by_time` applies if
    the model is served on the machine that trained and scored it. Seconds of two runs are not compared: the machine may
    have done other things beside one of them. prices: CostSettings.
    """
    by_tokens = any(prices.get(name) for name in TOKEN_PRICES)
    tuned = [(row, row.training, comparison.best_prompt(row)) for row in comparison.rows if row.rights.is_tuned]
    return [
        _break_even_entry(row, training, baseline, by_tokens)
        for row, training, baseline in tuned
        if training and baseline
    ]


def _break_even_entry(row: Row, training: TrainingCost, baseline: Row, by_tokens: bool) -> BreakEven:
    are_timed_together = row.timed_in == baseline.timed_in
    saved = Savings(
        prompt_tokens_per_call=_saving(baseline.prompt_tokens_per_call, row.prompt_tokens_per_call),
        seconds_per_call=_saving(baseline.seconds_per_call, row.seconds_per_call) if are_timed_together else None,
        cost_per_call=_saving(baseline.cost_per_call, row.cost_per_call) if are_timed_together or by_tokens else None,
    )
    by_time = _calls_to_pay(training.gpu_hours * 3600, saved.seconds_per_call)
    by_cost = _calls_to_pay(training.cost, saved.cost_per_call)
    return BreakEven(
        tuned=row.name,
        untouched=baseline.name,
        saved=saved,
        training=training,
        calls_by_time=by_time,
        calls_by_cost=by_cost,
    )


def _saving(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _calls_to_pay(spent: float | None, saved: float | None) -> int | None:
    """Return after how many calls the savings reach what was spent; None if they never do, or if that is unknown."""
    if spent is None or saved is None or saved <= 0:
        return None
    return math.ceil(round(spent / saved, 6))  # 9000.000000001 is 9,000


def describe_break_even(entry: BreakEven) -> str:
    """Return an entry of `break_even` as sentences. Only what was measured is concluded: fewer prompt tokens may take
    longer, and without prices nothing is known of costs."""
    saved, training = entry.saved, entry.training
    saved_tokens = saved.prompt_tokens_per_call or 0.0
    fewer = "fewer" if saved_tokens >= 0 else "more"
    tokens = f"{abs(saved_tokens):.0f} {fewer} prompt tokens per call than {entry.untouched}"
    known = []
    if (seconds := saved.seconds_per_call) is not None:
        numbers = f"{abs(seconds):.2g} s {_saved_or_more(seconds)}, measured here with shared prompt parts read once"
        known.append(f"By time it is {_paid_back(entry.calls_by_time)} ({numbers}).")
    if (cost := saved.cost_per_call) is not None and training.cost is not None:
        numbers = f"{training.cost:.2f} for the training{_bills(training)}, {abs(cost):.2g} {_saved_or_more(cost)}"
        known.append(f"By cost it is {_paid_back(entry.calls_by_cost)} ({numbers}).")
    took = f"{entry.tuned} reads {tokens}; its training took {format_duration(training.seconds)}{_lost(training)}."
    return " ".join([took, *(known or ["When it is paid back is not known."])])


def _paid_back(calls: int | None) -> str:
    return "never paid back" if calls is None else f"paid back after {calls:,} calls"


def _saved_or_more(saved: float) -> str:
    return f"{'saved' if saved >= 0 else 'more'} per call"


def _lost(training: TrainingCost) -> str:
    if not training.unfinished:
        return ""
    return f", with {format_duration(training.unfinished)} of attempts that did not finish"


def _bills(training: TrainingCost) -> str:
    bills = {"the teacher": training.teacher, "labels": training.labels}
    told = [f"{bill:.2f} for {name}" for name, bill in bills.items() if bill]
    return f" with {' and '.join(told)}" if told else ""
