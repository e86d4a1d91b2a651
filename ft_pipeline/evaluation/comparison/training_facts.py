"""What a comparison asks of the training behind a score; read from manifests, nothing is loaded."""

from typing import Any

from ft_pipeline.evaluation.comparison.costs import training_time
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


def facts(store: ArtifactStore, scored: Artifact) -> dict[str, Any]:
    """Of `scores`: `technique`, `train_rows` (those that people wrote), `took` (costs.training_time), and `noise`, the
    table of what 4 bit costs, where it was measured."""
    adapter, merged = (store.require(*scored.inputs[kind]) for kind in ("adapter", "merged_model"))
    return {
        "technique": scored.spec["config"]["technique"],
        "train_rows": _human_rows(store, adapter),
        "took": training_time(store, scored),
        "noise": merged.summary.get("noise"),
    }


def same_recipe(store: ArtifactStore, one: Artifact, other: Artifact) -> bool:
    """Whether what was scored was trained in the same way on the same data, but for the seed and the share of rows."""
    return _recipe(store, one) == _recipe(store, other)


def _human_rows(store: ArtifactStore, trained: Artifact) -> int:
    """Rows that people wrote, over all stages: what it starts from counts too."""
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
    start = {key: found for key, found in trained.inputs.items() if key != "training_data"}
    return [start, data.inputs, _without(trained.spec["config"]), _without(data.spec["config"])]


def _without(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a step of an experiment, without what tells the members of its series apart."""
    settings = dict(config["experiment"])
    settings["training"] = {key: value for key, value in settings["training"].items() if key != "seed"}
    if "data" in settings:
        settings["data"] = {key: value for key, value in settings["data"].items() if key != "share"}
    return {**config, "experiment": settings}
