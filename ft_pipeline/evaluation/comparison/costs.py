"""What training and calls cost, and after how many calls training has paid for the shorter prompt."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

Row = dict[str, Any]
"""A row of the comparison document."""


def training_time(store: ArtifactStore, scored: Artifact) -> dict[str, float | int] | None:
    """Of the model behind a `scores` artifact, as the manifests recorded it: `seconds` of training and merging, over
    all stages of the experiment, and `gpu_hours` (hours of the one CPU where there was no GPU). None where a manifest
    has no time."""
    seconds = device_seconds = 0.0
    for artifact in _trained(store, scored):
        run = artifact.manifest.get("run", {})
        if "seconds" not in run:
            return None
        seconds += run["seconds"]
        device_seconds += run["seconds"] * max(1, len(run.get("gpus") or ()))
    return {"seconds": seconds, "gpu_hours": device_seconds / 3600}


def _trained(store: ArtifactStore, scored: Artifact) -> list[Artifact]:
    """Every adapter and merged model that it took, each once: `start_from` trains others before."""
    found: dict[tuple[str, str], Artifact] = {}
    waiting = [scored]
    while waiting:
        artifact = waiting.pop()
        for name in ("adapter", "merged_model", "start", "base_model"):
            reference = artifact.inputs.get(name)
            if reference is None or reference in found:
                continue
            found[reference] = store.require(*reference)
            waiting.append(found[reference])
    return [artifact for artifact in found.values() if artifact.kind in ("adapter", "merged_model")]


def with_costs(row: Row, training: Mapping[str, Any] | None, prices: Mapping[str, Any]) -> Row:
    """The row with `training` (training_time, and `cost` where a GPU-hour has a price) and `cost_per_call`.

    prices: CostSettings. Tokens are counted where they have a price, else the seconds of the GPU; what the row knows
    itself (a teacher's price) stands.
    """
    hour = prices.get("gpu_hour")
    if training is not None:
        training = {**training, "cost": None if hour is None else hour * training["gpu_hours"]}
    cost = row.get("cost_per_call")
    return {**row, "training": training, "cost_per_call": _cost_per_call(row, prices) if cost is None else cost}


def _cost_per_call(row: Row, prices: Mapping[str, Any]) -> float | None:
    per_million = (prices.get("input_per_million"), prices.get("output_per_million"))
    tokens = (row["prompt_tokens_per_call"], row["generated_tokens_per_call"])
    if row["kind"] == "teacher":
        return None  # another model, at another price
    if any(per_million):
        return sum(count * (price or 0) for count, price in zip(tokens, per_million, strict=True)) / 1e6
    hour = prices.get("gpu_hour")
    return None if hour is None else hour * row["seconds_per_call"] / 3600


def break_even(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per tuned row, best first: what a call saves against the best use of the untouched model, and how many `calls`
    pay for the training, by time (on the machine that did both) and by cost; None where a call saves nothing, or its
    cost is not known. Empty without an untouched row.

    rows: of the comparison, best first, with costs.
    """
    bar = next((row for row in rows if row["kind"] in ("base", "prompt")), None)
    if bar is None:
        return []
    return [_against(row, bar) for row in rows if row["kind"] in TUNED and row["training"]]


def _against(row: Row, bar: Row) -> dict[str, Any]:
    training = row["training"]
    saved = {
        key: None if row[key] is None or bar[key] is None else bar[key] - row[key]
        for key in ("prompt_tokens_per_call", "seconds_per_call", "cost_per_call")
    }
    return {
        "tuned": row["name"],
        "untouched": bar["name"],
        "saved": saved,
        "training": training,
        "calls_by_time": _calls(training["gpu_hours"] * 3600, saved["seconds_per_call"]),
        "calls_by_cost": _calls(training["cost"], saved["cost_per_call"]),
    }


def _calls(spent: float | None, saved: float | None) -> int | None:
    if spent is None or saved is None or saved <= 0:
        return None
    return math.ceil(round(spent / saved, 6))  # 9000.000000001 is 9,000


def in_words(found: Mapping[str, Any]) -> str:
    """One entry of `break_even` as a sentence."""
    saved, training = found["saved"], found["training"]
    fewer = saved["prompt_tokens_per_call"]
    tokens = f"{abs(fewer):.0f} {'fewer' if fewer >= 0 else 'more'} prompt tokens per call than {found['untouched']}"
    calls = []
    if found["calls_by_time"] is not None:
        calls.append(
            f"after {found['calls_by_time']:,} calls by time ({saved['seconds_per_call']:.2g} s saved on each, as "
            f"measured here, where what prompts share is read once)"
        )
    if found["calls_by_cost"] is not None:
        each = saved["cost_per_call"]
        calls.append(
            f"after {found['calls_by_cost']:,} calls by cost ({training['cost']:.2f} against {each:.2g} on each)"
        )
    paid = " and ".join(calls) if calls else "never: a call takes no less"
    return f"{found['tuned']} reads {tokens}; its training took {duration(training['seconds'])}, paid back {paid}."


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
