"""The facts of a model card, collected from the model back to the tables through the inputs in the manifests."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.records import Comparison, read_comparison
from ft_pipeline.models.base_model import EMBEDDED, EMBEDDED_HUB_ID
from ft_pipeline.release.candidates import candidates, row_of
from ft_pipeline.release.card.model_card import CardFacts
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.tables.formats.registry import FORMATS

NOTHING_COMPARED = Comparison(test_rows=0, test_items=0, primary_metric="loss", rows=())


def card_facts(
    store: ArtifactStore, model: ModelReference, compared: Artifact | None, *, task: str, teacher_terms: str
) -> CardFacts:
    """Return the facts. compared: the comparison whose rows the card shows. task, teacher_terms: from project.yaml."""
    lineage = _Lineage(store, model)
    comparison = read_comparison(compared) if compared else NOTHING_COMPARED
    known = candidates(compared, store)[0] if compared else {}
    root = lineage.root_model
    evidence = {"comparison": compared.fingerprint} if compared else {}
    prompt_variant = model.record.fingerprints.get("prompt_variant") if model.record else None
    return CardFacts(
        name=model.row,
        row=row_of(comparison, known, model.released),
        kind=model.kind,
        task=task,
        base_model=root.summary["source"],
        hub_id=EMBEDDED_HUB_ID if root.spec["config"]["model"] == EMBEDDED else hub_id(root),
        license=_license(root),
        data=lineage.data(),
        splits=lineage.conversations.summary["splits"],
        comparison=comparison,
        fingerprints={**model.parts, **({"prompt_variant": prompt_variant} if prompt_variant else {}), **evidence},
        training=lineage.settings(),
        outcome=lineage.merged_input("adapter").summary if lineage.merged else {},
        audit=lineage.merged_input("training_data").summary["audit"] if lineage.merged else {},
        merge=lineage.merged.summary if lineage.merged else {},
        stages=lineage.stages(),
        made=lineage.made(),
        forgotten=lineage.forgotten(),
        teacher=lineage.teacher(teacher_terms),
        prompt=model.served,
        champion=model.record.to_json() if model.record else {},
    )


def hub_id(base: Artifact) -> str | None:
    """Return a base model's hub id; None for the embedded model, a local folder, or the model of an earlier phase."""
    config = base.spec["config"]
    local = config.get("content") is not None or "merged_model" in base.inputs
    return None if local or config["model"] == EMBEDDED else config["model"]


def _license(base: Artifact) -> str | None:
    if base.spec["config"]["model"] == EMBEDDED:
        return "apache-2.0"
    return "LICENSE" if (base.path / "LICENSE").is_file() else None


class _Lineage:
    """A model's artifacts."""

    def __init__(self, store: ArtifactStore, model: ModelReference) -> None:
        self.store = store
        self.base_model = store.require("base_model", model.parts["base_model"])
        merged = model.parts.get("merged_model")
        self.merged = store.require("merged_model", merged) if merged else None
        self.conversations = store.require(*model.conversations)

    @property
    def root_model(self) -> Artifact:
        """The base model of the first phase. A later phase may start from the merged model of the previous one."""
        base = self.base_model
        while "merged_model" in base.inputs:
            base = self.store.require(*self.store.require(*base.inputs["merged_model"]).inputs["base_model"])
        return base

    def merged_input(self, name: str) -> Artifact:
        assert self.merged is not None
        return self.store.require(*self.merged.inputs[name])

    def trained(self) -> list[Artifact]:
        """Return the adapters of all phases, in training order."""
        adapters: list[Artifact] = []
        adapter = self.merged_input("adapter") if self.merged else None
        # Artifacts are identified by content: a phase that changed nothing would lead back to itself.
        while adapter is not None and adapter.fingerprint not in {later.fingerprint for later in adapters}:
            adapters.insert(0, adapter)
            base = self.store.require(*adapter.inputs["base_model"])
            if "start" in adapter.inputs:
                adapter = self.store.require(*adapter.inputs["start"])
            elif "merged_model" in base.inputs:
                adapter = self.store.require(*self.store.require(*base.inputs["merged_model"]).inputs["adapter"])
            else:
                adapter = None
        return adapters

    def stages(self) -> list[dict[str, Any]]:
        return [
            {
                **{key: adapter.spec["config"]["experiment"][key] for key in ("objective", "technique")},
                "rows": self._rows(adapter),
            }
            for adapter in self.trained()
        ]

    def _rows(self, adapter: Artifact) -> int:
        audited = self.store.require(*adapter.inputs["training_data"]).summary["audit"]
        counts: Mapping[str, int] = audited.get("rows", {})
        return sum(rows for name, rows in counts.items() if name.endswith("/train"))

    def made(self) -> dict[str, Any]:
        """Return when, on which machine, and with which code and packages the last phase was trained."""
        if self.merged is None:
            return {}
        manifest = self.merged_input("adapter").manifest
        run, code, machine = manifest["run"], manifest["code"], manifest["hardware"]
        packages = ("torch", "transformers", "peft", "trl", "bitsandbytes")
        return {
            "trained": manifest["created"],
            "device": ", ".join(run.get("gpus") or []) or run.get("device"),
            "machine": f"{machine['processor']}, {machine['cores']} cores",
            "ft-pipeline": f"{code['version']} (source {code['sha256'][:12]})",
            "commit": code["commit"],
            **{name: manifest["packages"][name] for name in packages if name in manifest["packages"]},
        }

    def forgotten(self) -> bool:
        made = [*self.trained(), *([self.merged] if self.merged else [])]
        return any(artifact.manifest.get("redactions") for artifact in made)

    def data(self) -> dict[str, dict[str, Any]]:
        """Return counts by training table: read, accepted, quarantined, duplicates, reasons."""
        tables = dict(self.conversations.inputs)
        for adapter in self.trained():
            learned = self.store.require(*adapter.inputs["training_data"]).inputs
            tables |= {name: reference for name, reference in learned.items() if name in FORMATS}
        keys = ("read", "accepted", "quarantined", "duplicates", "reasons")
        artifacts = {name: self.store.require(*tables[name]) for name in FORMATS if name in tables}
        return {name: {key: table.summary[key] for key in keys} for name, table in artifacts.items()}

    def settings(self) -> Mapping[str, Any]:
        return self.merged_input("adapter").spec["config"]["experiment"] if self.merged else {}

    def teacher(self, terms: str) -> dict[str, Any]:
        """Return the teacher's part in the training data; empty if no distilled row was trained on."""
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
