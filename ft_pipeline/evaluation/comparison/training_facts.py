"""Facts about the training of a scored model, for a comparison. They come from manifests; no model is loaded."""

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.costs import training_time
from ft_pipeline.evaluation.comparison.own_targets import own_targets
from ft_pipeline.settings.distill import OWN_PROMPT
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import ArtifactReference

LABELED = ("human", "preferred", "up", "down")
"""Sources of training rows that people wrote or labeled."""


def training_facts_of(
    store: ArtifactStore, scores: Mapping[str, ArtifactReference], *, count_labels: bool = False
) -> dict[str, dict[str, Any]]:
    """Return experiment → facts about its training. scores: references by `<experiment>/scores`; others are ignored.
    count_labels: whether to read how many rows were labeled, which only matters if they have a price."""
    return {
        (name := key.removesuffix("/scores")): read_training_facts(
            store, store.require(*reference), name, count_labels=count_labels
        )
        for key, reference in scores.items()
        if key.endswith("/scores") and not key.startswith("champion/")
    }


def read_training_facts(
    store: ArtifactStore, scores: Artifact, experiment: str, *, count_labels: bool = False
) -> dict[str, Any]:
    """Return the training facts of a `scores` artifact.

    Keys: `technique`, `train_rows` (rows written by people; absent for `distill`, which needs none), `labels` (rows
    that people wrote or labeled, if they are counted), `took` (from costs.training_time), `noise` (the table of
    quantization errors; None if they were not measured), and `own_targets` (see there). `prompt`, if the training moved
    a prompt variant into the weights: its name.
    """
    adapter, merged = (store.require(*scores.inputs[kind]) for kind in ("adapter", "merged_model"))
    taught = adapter.spec["config"].get("experiment", {}).get("distill")
    return {
        "technique": scores.spec["config"]["technique"],
        **({} if taught else {"train_rows": _human_rows(store, adapter)}),
        **({"labels": _labels(store, adapter)} if count_labels else {}),
        "took": _with_bill(training_time(store, scores), _teachers_bill(store, adapter)),
        "noise": merged.summary.get("noise"),
        "own_targets": [target.model_dump() for target in own_targets(adapter, experiment)],
        **({"prompt": taught["variant"]} if taught and taught["teacher"] == OWN_PROMPT else {}),
    }


def same_recipe(store: ArtifactStore, first: Artifact, second: Artifact) -> bool:
    """Return whether both models have the same training and data, except for the seed and the share of rows."""
    return _recipe(store, first) == _recipe(store, second)


def phase_adapters(store: ArtifactStore, adapter: Artifact) -> list[Artifact]:
    """Return the adapters of all phases up to this one, in training order."""
    adapters: list[Artifact] = []
    current: Artifact | None = adapter
    # A phase that changes no weights makes the same artifact as the phase before it, which would be its own start.
    while current is not None and current.fingerprint not in {later.fingerprint for later in adapters}:
        adapters.insert(0, current)
        current = _previous_adapter(store, current)
    return adapters


def _previous_adapter(store: ArtifactStore, adapter: Artifact) -> Artifact | None:
    """Return the adapter of the phase before: the one that training continued, or the one merged into its base."""
    if "start" in adapter.inputs:
        return store.require(*adapter.inputs["start"])
    base = store.require(*adapter.inputs["base_model"])
    if "merged_model" in base.inputs:
        return store.require(*store.require(*base.inputs["merged_model"]).inputs["adapter"])
    return None


def _with_bill(time: dict[str, Any] | None, bill: float | None) -> dict[str, Any] | None:
    """Return the training time with the teacher's bill, if there is one."""
    return time if time is None or bill is None else {**time, "teacher": bill}


def _teachers_bill(store: ArtifactStore, adapter: Artifact) -> float | None:
    """Return what the answers of teachers cost that were trained on, over all phases; None if none was paid for."""
    bills: dict[str, float] = {}
    for phase in phase_adapters(store, adapter):
        training_data = store.require(*phase.inputs["training_data"])
        if "distilled" in training_data.inputs:
            distilled = store.require(*training_data.inputs["distilled"])
            answers = store.require(*distilled.inputs["teacher_answers"])
            bills[answers.fingerprint] = answers.summary.get("spent", {}).get("cost", 0.0)
    total = sum(bills.values())
    return total or None


def _human_rows(store: ArtifactStore, adapter: Artifact) -> int:
    """Return the number of training rows written by people, over all phases up to this adapter. Prompts of grpo count
    only if no phase before learned from conversations, because they are the same rows."""
    training_data = [store.require(*phase.inputs["training_data"]) for phase in phase_adapters(store, adapter)]
    counts = [data.summary["audit"]["rows"] for data in training_data]
    learned = sum(rows.get(f"{source}/train", 0) for rows in counts for source in ("human", "preferred", "text"))
    return learned or sum(rows.get("prompt/train", 0) for rows in counts)


def _labels(store: ArtifactStore, adapter: Artifact) -> int:
    """Return the number of rows that people wrote or labeled, over all phases up to this adapter. Each counts once,
    whatever its weight, and however many texts it becomes."""
    labeled = set()
    for phase in phase_adapters(store, adapter):
        data = store.require(*phase.inputs["training_data"])
        rows = pq.read_table(data.path / "train.parquet", columns=["id", "source"]).to_pydict()
        labeled |= {name for name, source in zip(rows["id"], rows["source"], strict=True) if source in LABELED}
    return len(labeled)


def _recipe(store: ArtifactStore, scores: Artifact) -> list[Any]:
    """Return everything that the training depended on, except for the seed and the share of rows."""
    adapter = store.require(*scores.inputs["adapter"])
    training_data = store.require(*adapter.inputs["training_data"])
    starting_point = {key: reference for key, reference in adapter.inputs.items() if key != "training_data"}
    return [
        starting_point,
        training_data.inputs,
        _without_sweep_settings(adapter.spec["config"]),
        _without_sweep_settings(training_data.spec["config"]),
    ]


def _without_sweep_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an experiment's step without the settings that differ between sweep members."""
    settings = dict(config["experiment"])
    settings["training"] = {key: value for key, value in settings["training"].items() if key != "seed"}
    if "data" in settings:
        settings["data"] = {key: value for key, value in settings["data"].items() if key != "share"}
    return {**config, "experiment": settings}
