"""Facts about the training of a scored model, for a comparison. They are read from manifests; no model is loaded."""

from typing import Any

from ft_pipeline.evaluation.comparison.costs import training_time
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


def facts(store: ArtifactStore, scored: Artifact) -> dict[str, Any]:
    """Return the training facts of a `scores` artifact.

    Keys: `technique`, `train_rows` (rows written by people), `took` (costs.training_time), and `noise` (the table of
    quantization errors, None if it was not measured).
    """
    adapter, merged = (store.require(*scored.inputs[kind]) for kind in ("adapter", "merged_model"))
    return {
        "technique": scored.spec["config"]["technique"],
        "train_rows": _human_rows(store, adapter),
        "took": training_time(store, scored),
        "noise": merged.summary.get("noise"),
    }


def same_recipe(store: ArtifactStore, one: Artifact, other: Artifact) -> bool:
    """Return whether both models have the same training and data, except for the seed and the share of rows."""
    return _recipe(store, one) == _recipe(store, other)


def _human_rows(store: ArtifactStore, trained: Artifact) -> int:
    """Return the number of rows written by people, over all phases, those of the starting model included."""
    rows = store.require(*trained.inputs["training_data"]).summary["audit"]["rows"]
    total = sum(rows.get(f"{source}/train", 0) for source in ("human", "preferred", "text"))
    base = store.require(*trained.inputs["base_model"])
    if "start" in trained.inputs:
        total += _human_rows(store, store.require(*trained.inputs["start"]))
    elif "merged_model" in base.inputs:
        merged = store.require(*base.inputs["merged_model"])
        total += _human_rows(store, store.require(*merged.inputs["adapter"]))
    return total


def _recipe(store: ArtifactStore, scored: Artifact) -> list[Any]:
    trained = store.require(*scored.inputs["adapter"])
    data = store.require(*trained.inputs["training_data"])
    start = {key: reference for key, reference in trained.inputs.items() if key != "training_data"}
    return [start, data.inputs, _without(trained.spec["config"]), _without(data.spec["config"])]


def _without(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an experiment's step without the settings that differ between sweep members."""
    settings = dict(config["experiment"])
    settings["training"] = {key: value for key, value in settings["training"].items() if key != "seed"}
    if "data" in settings:
        settings["data"] = {key: value for key, value in settings["data"].items() if key != "share"}
    return {**config, "experiment": settings}
