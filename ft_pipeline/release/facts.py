"""What a model's card says, gathered by walking from the model back to the tables through the manifests' inputs."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.release.candidates import candidates, row_of
from ft_pipeline.release.model_card import CardFacts
from ft_pipeline.release.named import NamedModel
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

NOTHING_COMPARED: dict[str, Any] = {"test_rows": 0, "rows": []}


def card_facts(
    store: ArtifactStore, model: NamedModel, comparison: Artifact | None, *, task: str, teacher_terms: str
) -> CardFacts:
    """comparison: whose rows stand on the card. task, teacher_terms: of project.yaml."""
    lineage = _Lineage(store, model)
    document = comparison.document("comparison.json") if comparison else NOTHING_COMPARED
    known = candidates(comparison, store)[0] if comparison else {}
    root = lineage.root_model
    compared = {"comparison": comparison.fingerprint} if comparison else {}
    prompt_variant = model.record.fingerprints.get("prompt_variant") if model.record else None
    return CardFacts(
        name=model.row,
        row=row_of(document, known, model.released),
        kind=model.kind,
        task=task,
        base_model=root.summary["source"],
        hub_id=hub_id(root),
        license="apache-2.0" if root.spec["config"]["model"] == EMBEDDED else None,
        data=lineage.data(),
        splits=lineage.conversations.summary["splits"],
        comparison=document,
        fingerprints={**model.parts, **({"prompt_variant": prompt_variant} if prompt_variant else {}), **compared},
        training=lineage.settings(),
        outcome=lineage.merged_input("adapter").summary if lineage.merged else {},
        audit=lineage.merged_input("training_data").summary["audit"] if lineage.merged else {},
        merge=lineage.merged.summary if lineage.merged else {},
        teacher=lineage.teacher(teacher_terms),
        prompt=model.served,
        champion=model.record.to_json() if model.record else {},
    )


def hub_id(base: Artifact) -> str | None:
    """The name of a base model on the hub; None for the embedded one, a local folder, and what another stage left."""
    config = base.spec["config"]
    local = config.get("content") is not None or "merged_model" in base.inputs
    return None if local or config["model"] == EMBEDDED else config["model"]


class _Lineage:
    """A model's artifacts."""

    def __init__(self, store: ArtifactStore, model: NamedModel) -> None:
        self.store = store
        self.base_model = store.require("base_model", model.parts["base_model"])
        merged = model.parts.get("merged_model")
        self.merged = store.require("merged_model", merged) if merged else None
        self.conversations = store.require(*model.conversations)

    @property
    def root_model(self) -> Artifact:
        """What the first stage started from: the base of a later stage may be the merged model of the one before."""
        base = self.base_model
        while "merged_model" in base.inputs:
            base = self.store.require(*self.store.require(*base.inputs["merged_model"]).inputs["base_model"])
        return base

    def merged_input(self, name: str) -> Artifact:
        assert self.merged is not None
        return self.store.require(*self.merged.inputs[name])

    def data(self) -> dict[str, dict[str, Any]]:
        """Counts by table: read, accepted, quarantined, duplicates, reasons."""
        tables = {name: self.store.require(*self.conversations.inputs[name]) for name in ("alpaca", "sharegpt")}
        keys = ("read", "accepted", "quarantined", "duplicates", "reasons")
        return {name: {key: found.summary[key] for key in keys} for name, found in tables.items()}

    def settings(self) -> Mapping[str, Any]:
        return self.merged_input("adapter").spec["config"]["experiment"] if self.merged else {}

    def teacher(self, terms: str) -> dict[str, Any]:
        """The teacher's part in the training data; empty where no distilled row was trained on."""
        if not self.merged or "distilled" not in (inputs := self.merged_input("training_data").inputs):
            return {}
        distilled = self.store.require(*inputs["distilled"])
        settings = self.merged_input("training_data").spec["config"]["experiment"]["data"]
        kept = {key: distilled.summary[key] for key in ("kept", "set_aside")}
        answers = self.store.require(*distilled.inputs["teacher_answers"])
        return {
            "model": distilled.spec["config"]["teacher"]["model"],
            "host": answers.document("teacher.json").get("endpoint_host"),
            "terms": terms,
            **kept,
            "weight": settings["weights"]["distilled"],
        }
