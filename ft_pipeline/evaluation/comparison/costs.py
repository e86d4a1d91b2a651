"""The cost of training and of calls, and after how many calls the shorter prompt has paid for the training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ft_pipeline.evaluation.comparison.records import BreakEven, ComparisonRow, Savings, TrainingCost
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


def training_time(store: ArtifactStore, scored: Artifact) -> dict[str, float | int] | None:
    """Return the training time of the model of a `scores` artifact, from the manifests; None if one has no time.

    `seconds`: training and merging, over all phases of the experiment. `gpu_hours`: the same in GPU-hours, or in hours
    of the one CPU if there was no GPU.
    """
    seconds = device_seconds = 0.0
    for artifact in _trained(store, scored):
        run = artifact.manifest.get("run", {})
        if "seconds" not in run:
            return None
        seconds += run["seconds"]
        device_seconds += run["seconds"] * max(1, len(run.get("gpus") or ()))
    return {"seconds": seconds, "gpu_hours": device_seconds / 3600}


def _trained(store: ArtifactStore, scored: Artifact) -> list[Artifact]:
    """Return every adapter and merged model that the model was built from, once. `start_from` adds earlier ones."""
    artifacts: dict[tuple[str, str], Artifact] = {}
    waiting = [scored]
    while waiting:
        artifact = waiting.pop()
        for name in ("adapter", "merged_model", "start", "base_model"):
            reference = artifact.inputs.get(name)
            if reference is None or reference in artifacts:
                continue
            artifacts[reference] = store.require(*reference)
            waiting.append(artifacts[reference])
    return [artifact for artifact in artifacts.values() if artifact.kind in ("adapter", "merged_model")]


def with_costs(row: ComparisonRow, took: Mapping[str, Any] | None, prices: Mapping[str, Any]) -> ComparisonRow:
    """Return the row with `training`, whose cost is known if a GPU-hour has a price, and `cost_per_call`.

    took: see training_time. prices: CostSettings. A call is charged by tokens if they have a price, otherwise by GPU
    seconds. A cost that the row already has (a teacher's) is kept.
    """
    hour = prices.get("gpu_hour")
    training = None
    if took is not None:
        training = TrainingCost(**took, cost=None if hour is None else hour * took["gpu_hours"])
    cost = row.cost_per_call
    return replace(row, training=training, cost_per_call=_cost_per_call(row, prices) if cost is None else cost)


def _cost_per_call(row: ComparisonRow, prices: Mapping[str, Any]) -> float | None:
    per_million = (prices.get("input_per_million"), prices.get("output_per_million"))
    if row.kind == "teacher":
        return None  # another model, at another price
    tokens = (row.prompt_tokens_per_call, row.generated_tokens_per_call)
    if any(per_million):
        return sum((count or 0) * (price or 0) for count, price in zip(tokens, per_million, strict=True)) / 1e6
    hour = prices.get("gpu_hour")
    return None if hour is None or row.seconds_per_call is None else hour * row.seconds_per_call / 3600


def break_even(rows: Sequence[ComparisonRow]) -> list[BreakEven]:
    """Return per tuned row, best first, the savings per call and how many calls pay for the training.

    Savings are against the best baseline; without one the list is empty. `calls_by_time` is for the machine that did
    both.
    rows: the rows of the comparison, best first, with costs.
    """
    baseline = next((row for row in rows if row.kind in BASELINES), None)
    if baseline is None:
        return []
    return [_against(row, row.training, baseline) for row in rows if row.kind in TUNED and row.training]


def _against(row: ComparisonRow, training: TrainingCost, baseline: ComparisonRow) -> BreakEven:
    saved = Savings(
        _less(baseline.prompt_tokens_per_call, row.prompt_tokens_per_call),
        _less(baseline.seconds_per_call, row.seconds_per_call),
        _less(baseline.cost_per_call, row.cost_per_call),
    )
    by_time = _calls(training.gpu_hours * 3600, saved.seconds_per_call)
    by_cost = _calls(training.cost, saved.cost_per_call)
    return BreakEven(row.name, baseline.name, saved, training, by_time, by_cost)


def _less(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _calls(spent: float | None, saved: float | None) -> int | None:
    if spent is None or saved is None or saved <= 0:
        return None
    return math.ceil(round(spent / saved, 6))  # 9000.000000001 is 9,000


def in_words(entry: BreakEven) -> str:
    """Return an entry of `break_even` as a sentence."""
    saved, training = entry.saved, entry.training
    fewer = saved.prompt_tokens_per_call or 0.0
    tokens = f"{abs(fewer):.0f} {'fewer' if fewer >= 0 else 'more'} prompt tokens per call than {entry.untouched}"
    calls = []
    if entry.calls_by_time is not None:
        calls.append(
            f"after {entry.calls_by_time:,} calls by time ({saved.seconds_per_call:.2g} s saved per call, measured "
            "here with shared prompt parts read once)"
        )
    if entry.calls_by_cost is not None:
        calls.append(
            f"after {entry.calls_by_cost:,} calls by cost ({training.cost:.2f} for the training, "
            f"{saved.cost_per_call:.2g} saved per call)"
        )
    paid = f"pays off {' and '.join(calls)}" if calls else "never pays off, because a call saves nothing"
    return f"{entry.tuned} reads {tokens}; its training took {duration(training.seconds)}, which {paid}."


def duration(seconds: float) -> str:
    """Return the duration as text, in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
