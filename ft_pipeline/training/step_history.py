"""Earlier steps in the store as measurements of their devices, and how far off an estimate of a step was."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.memory.rank_share import RankCount
from ft_pipeline.training.time_estimate import ASSUMED, Measured, estimate, measured_step
from ft_pipeline.training.work import Work, merge_work, scoring_work, teacher_work, training_work

LETTERS_PER_TOKEN = 4
"""Of English, in most vocabularies: for prompts that were not tokenized."""


def measured_steps(store: ArtifactStore, kinds: Collection[str] | None = None) -> list[Measured]:
    """Return the steps of the store that ran without an interruption, oldest first. kinds: by default all."""
    found = [
        entry
        for kind in kinds or _KINDS
        for artifact in store.all(kind)
        if (entry := _KINDS[kind](store, artifact)) is not None
    ]
    return sorted(found, key=lambda entry: entry.begun)


def _measure_training(store: ArtifactStore, adapter: Artifact) -> Measured | None:
    data, base = (store.open(*adapter.inputs[name]) for name in ("training_data", "base_model"))
    if adapter.summary.get("resumed_from_step") or data is None or base is None:
        return None
    settings, steps = settings_of(adapter), adapter.summary["steps"]
    config, audit = base.document("config.json"), data.summary["audit"]
    work = training_work(settings, config, audit, steps, _teacher_config(store, adapter))
    return measured_step(adapter, work, settings, adapter.summary["seconds"])


def _teacher_config(store: ArtifactStore, adapter: Artifact) -> dict[str, Any] | None:
    """Return the config of the model that read the student's answers; None if none did, or if it is gone."""
    teacher = store.open(*adapter.inputs["teacher"]) if "teacher" in adapter.inputs else None
    return teacher.document("config.json") if teacher else None


def _measure_merge(store: ArtifactStore, merged: Artifact) -> Measured | None:
    data, base = (store.open(*merged.inputs[name]) for name in ("training_data", "base_model"))
    if data is None or base is None:
        return None
    settings = settings_of(merged)
    work = merge_work(settings, base.document("config.json"), data.summary["audit"])
    return measured_step(merged, work, settings, _seconds(merged))


def _measure_scores(store: ArtifactStore, scores: Artifact) -> Measured | None:
    base = store.open(*scores.inputs["base_model"])
    if base is None or "test_rows" not in scores.summary:
        return None
    rows, evaluation = scores.summary["rows"], scores.spec["config"]["evaluation"]
    length = min(row["prompt_tokens_per_call"] + row["generated_tokens_per_call"] for row in rows)
    limit, batch = evaluation["max_new_tokens"] or rows[0]["max_new_tokens"], evaluation["batch_size"]
    config = base.document("config.json")
    work = scoring_work(config, len(rows), scores.summary["test_rows"], length, limit, batch)
    return measured_step(scores, work, None, _seconds(scores))


def _measure_teacher(store: ArtifactStore, answers: Artifact) -> Measured | None:
    base = store.open(*answers.inputs["base_model"])
    if base is None or answers.summary["resumed"]:
        return None
    distill = DistillSettings.model_validate(answers.spec["config"]["distill"])
    prompt_tokens = mean_prompt_tokens(answers, "prompt_messages")
    work = teacher_work(distill, base.document("config.json"), answers.summary["prompts"], prompt_tokens)
    return measured_step(answers, work, None, _seconds(answers))


_KINDS: dict[str, Callable[[ArtifactStore, Artifact], Measured | None]] = {
    "adapter": _measure_training,
    "merged_model": _measure_merge,
    "prompt_baseline": _measure_scores,
    "scores": _measure_scores,
    "teacher_distributions": _measure_teacher,
}
"""Kind of artifact → its measurement; None if it was interrupted, or if an input is gone."""


def _seconds(artifact: Artifact) -> float:
    return float(artifact.manifest["run"].get("seconds") or 0.0)


def settings_of(artifact: Artifact) -> ExperimentSettings:
    """Return the settings that an adapter or a merged model was made with."""
    return ExperimentSettings.model_validate(artifact.spec["config"]["experiment"])


def mean_prompt_tokens(table: Artifact, column: str) -> float:
    """Return the mean length of the messages of a table, in tokens, by their letters."""
    rows = read_columns(table.path / "rows.parquet", [column])[column].to_pylist()
    letters = sum(len(message["content"] or "") for messages in rows for message in messages)
    return letters / LETTERS_PER_TOKEN / max(1, len(rows))


def hindsight(store: ArtifactStore, adapter: Artifact, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the time and the peak memory of a training, and how far off the estimates were.

    `estimate` and `off_by` are null if it was interrupted, or if there was no earlier training on its device. The
    memory before the model was loaded, that of Python and its libraries, is no part of the estimate.
    """
    settings = settings_of(adapter)
    data, base = (store.require(*adapter.inputs[name]) for name in ("training_data", "base_model"))
    config, audit = base.document("config.json"), data.summary["audit"]
    device = "cpu" if adapter.manifest["run"].get("device") == "cpu" else "cuda"
    teacher = _teacher_config(store, adapter)
    memory = estimate_experiment(
        settings,
        config,
        audit["lengths"]["max"],
        None,
        device,
        base.summary["params"],
        adapter.summary.get("computed_in", "bfloat16"),
        RankCount(adapter.summary.get("processes", 1)),
        teacher,
    )
    peak, before = adapter.summary["peak_memory_gb"], adapter.summary.get("memory_before_gb", 0.0)
    return {
        "interrupted": bool(adapter.summary.get("resumed_from_step")),
        "seconds": adapter.summary["seconds"],
        **_compare_time(adapter, training_work(settings, config, audit, teacher=teacher), settings, measured),
        "peak_memory_gb": peak,
        "memory_before_gb": before,
        "memory_gb": memory["total_gb"],
        "memory_off_by": (peak - before) / memory["total_gb"],
        "stopped_early": adapter.summary["stopped_early"],
    }


def _compare_time(
    adapter: Artifact, work: Work, settings: ExperimentSettings, measured: Sequence[Measured]
) -> dict[str, Any]:
    """Return what earlier steps on the device let expect, and the time divided by the middle of that range."""
    own = next((entry for entry in measured if entry.fingerprint == adapter.fingerprint), None)
    earlier = [entry for entry in measured if own is not None and entry.begun < own.begun]
    seconds = estimate(work, "adapter", settings, earlier, own.device) if own and earlier else None
    if own is None or seconds is None or seconds.basis.startswith(ASSUMED):
        return {"estimate": None, "off_by": None}
    return {"estimate": [seconds.low, seconds.high], "off_by": seconds.off_by(own.seconds)}
