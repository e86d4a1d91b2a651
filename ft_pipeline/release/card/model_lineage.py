"""Collect the facts for a model card. The inputs in the manifests lead from the model back to the tables."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.evaluation.comparison.own_targets import own_targets
from ft_pipeline.evaluation.comparison.training_facts import phase_adapters
from ft_pipeline.models.base_model import EMBEDDED, EMBEDDED_HUB_ID
from ft_pipeline.release.candidates import find_candidates, released_row
from ft_pipeline.release.card.model_card import CardFacts
from ft_pipeline.release.disclosure.row_list import count_erased
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.provenance import NOT_INSTALLED
from ft_pipeline.tables.formats.registry import FORMATS

NO_COMPARISON = Comparison(test_rows=0, test_items=0, primary_metric="loss", rules="", rows=())
"""Shown on a card if no models have been compared yet."""
_CARD_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
"""Packages whose versions are on the card."""


def card_facts(
    store: ArtifactStore,
    model: ModelReference,
    comparison_artifact: Artifact | None,
    *,
    task: str,
    teacher_terms: str,
    decided: Mapping[str, Any] | None = None,
) -> CardFacts:
    """Return the facts. comparison_artifact: its rows are on the card. task, teacher_terms: from project.yaml. decided:
    decision.json, if it is about this model."""
    lineage = Lineage(store, model)
    comparison = read_comparison(comparison_artifact) if comparison_artifact else NO_COMPARISON
    candidates = find_candidates(comparison_artifact, store)[0] if comparison_artifact else {}
    root, base = lineage.root_model, lineage.base_model
    return CardFacts(
        name=model.row,
        row=released_row(comparison, candidates, model.released_fingerprint),
        kind=model.kind,
        task=task,
        base_model=root.summary["source"] if root else None,
        hub_id=_hub_id_of_root(root) if root else None,
        license=_license(root) if root else None,
        row_counts=lineage.row_counts(),
        splits=lineage.conversations.summary["splits"],
        comparison=comparison,
        fingerprints=_fingerprints(model, comparison_artifact),
        settings=lineage.settings(),
        adapter_summary=lineage.merged_input("adapter").summary if lineage.merged else {},
        own_targets=own_targets(lineage.merged_input("adapter")) if lineage.merged else (),
        token_audit=lineage.merged_input("training_data").summary["audit"] if lineage.merged else {},
        merge_summary=lineage.merged.summary if lineage.merged else {},
        phases=lineage.phases(),
        provenance=lineage.provenance(),
        has_erased_rows=lineage.has_erased_rows(),
        teacher=lineage.teacher(teacher_terms),
        base_is_exported=base is not None and hub_id(base) is None,
        serving=model.serving,
        champion=model.record.model_dump() if model.record else {},
        decided=decided or {},
    )


def _fingerprints(model: ModelReference, comparison_artifact: Artifact | None) -> dict[str, str]:
    """Return fingerprints by role: of the model's parts, of its prompt and of the comparison."""
    prompt = model.record.fingerprints if model.record else {}
    evidence = {"comparison": comparison_artifact.fingerprint} if comparison_artifact else {}
    return {**prompt, **model.fingerprints, **evidence}


def _hub_id_of_root(root: Artifact) -> str | None:
    return EMBEDDED_HUB_ID if root.spec["config"]["model"] == EMBEDDED else hub_id(root)


def hub_id(base: Artifact) -> str | None:
    """Return a base model's hub id; None for the embedded model, a local folder, or the model of an earlier phase."""
    config = base.spec["config"]
    local = config.get("content") is not None or "merged_model" in base.inputs
    return None if local or config["model"] == EMBEDDED else config["model"]


def _license(base: Artifact) -> str | None:
    """Return CardFacts.license of a base model. Only the embedded model's license is known by name."""
    if base.spec["config"]["model"] == EMBEDDED:
        return "apache-2.0"
    return "LICENSE" if (base.path / "LICENSE").is_file() else None


class Lineage:
    """A model's artifacts: of all its training phases, from the last one back to the tables."""

    def __init__(self, store: ArtifactStore, model: ModelReference) -> None:
        self.store = store
        base_model = model.fingerprints.get("base_model")
        self.base_model = store.require("base_model", base_model) if base_model else None
        merged = model.fingerprints.get("merged_model")
        self.merged = store.require("merged_model", merged) if merged else None
        self.conversations = store.require(*model.conversations)

    @property
    def root_model(self) -> Artifact | None:
        """The base model of the first phase. A later phase may start from the merged model of the previous one. None
        without a language model."""
        base = self.base_model
        while base is not None and "merged_model" in base.inputs:
            base = self.store.require(*self.store.require(*base.inputs["merged_model"]).inputs["base_model"])
        return base

    def merged_input(self, name: str) -> Artifact:
        """Return an input of the merged model, such as `adapter`. Only for a model that was trained."""
        assert self.merged is not None
        return self.store.require(*self.merged.inputs[name])

    def adapters(self) -> list[Artifact]:
        """Return the adapters of all phases, in training order."""
        return phase_adapters(self.store, self.merged_input("adapter")) if self.merged else []

    def phases(self) -> list[dict[str, Any]]:
        """Return objective, technique and number of training rows of each phase, in training order."""
        return [
            {
                **{key: adapter.spec["config"]["experiment"][key] for key in ("objective", "technique")},
                "rows": self._training_rows(adapter),
            }
            for adapter in self.adapters()
        ]

    def _training_rows(self, adapter: Artifact) -> int:
        audit = self.store.require(*adapter.inputs["training_data"]).summary["audit"]
        counts: Mapping[str, int] = audit.get("rows", {})
        return sum(rows for name, rows in counts.items() if name.endswith("/train") and name != "rejected/train")

    def provenance(self) -> dict[str, Any]:
        """Return when, on which machine, and with which code and packages the last phase was trained."""
        if self.merged is None:
            return {}
        manifest = self.merged_input("adapter").manifest
        run, code, machine = manifest["run"], manifest["code"], manifest["hardware"]
        return {
            "trained": manifest["created"],
            "device": ", ".join(run.get("gpus") or []) or run.get("device"),
            "machine": f"{machine['processor']}, {machine['cores']} cores",
            "ft-pipeline": f"{code['version']} (source {code['sha256'][:12]})",
            "commit": code["commit"],
            **{name: manifest["packages"].get(name, NOT_INSTALLED) for name in _CARD_PACKAGES},
        }

    def has_erased_rows(self) -> bool:
        """Return whether rows that the model was trained on have been erased since."""
        return count_erased(self.store, self.adapters()) > 0

    def row_counts(self) -> dict[str, dict[str, Any]]:
        """Return counts by table that any phase trained on: read, accepted, quarantined, duplicates, reasons."""
        tables = dict(self.conversations.inputs)
        for adapter in self.adapters():
            training_inputs = self.store.require(*adapter.inputs["training_data"]).inputs
            tables |= {name: reference for name, reference in training_inputs.items() if name in FORMATS}
        keys = ("read", "accepted", "quarantined", "duplicates", "reasons")
        artifacts = {name: self.store.require(*tables[name]) for name in FORMATS if name in tables}
        return {name: {key: table.summary[key] for key in keys} for name, table in artifacts.items()}

    def settings(self) -> Mapping[str, Any]:
        """Return the last phase's experiment settings; empty for a model that was not trained."""
        return self.merged_input("adapter").spec["config"]["experiment"] if self.merged else {}

    def teacher(self, terms: str) -> dict[str, Any]:
        """Return the teacher's part in the training data of the last phase that has distilled rows or a teacher's
        distributions; empty if none has.

        A teacher that ran on this machine is named as a base model is, without the folder that it is in.
        """
        trained_on = [self.store.require(*adapter.inputs["training_data"]) for adapter in self.adapters()]
        taught = [data for data in trained_on if {"distilled", "teacher_distributions"} & data.inputs.keys()]
        if not taught:
            return {}
        training_data = taught[-1]
        if "teacher_distributions" in training_data.inputs:
            return self._teacher_of_distributions(training_data)
        distilled = self.store.require(*training_data.inputs["distilled"])
        if not (distilled.summary["kept"] or distilled.summary["set_aside"]):
            return {}  # it was asked nothing
        answers = self.store.require(*distilled.inputs["teacher_answers"])
        local = self.store.require(*answers.inputs["base_model"]) if "base_model" in answers.inputs else None
        return {
            "model": local.summary["source"] if local else distilled.spec["config"]["teacher"]["model"],
            "host": answers.document("teacher.json").get("endpoint_host"),
            "terms": terms,
            "kept": distilled.summary["kept"],
            "set_aside": distilled.summary["set_aside"],
            "weight": training_data.spec["config"]["experiment"]["data"]["weights"]["distilled"],
        }

    def _teacher_of_distributions(self, training_data: Artifact) -> dict[str, Any]:
        """Return the part of the teacher of `distill`. It runs on this machine, so no terms of a provider apply."""
        distributions = self.store.require(*training_data.inputs["teacher_distributions"])
        return {
            "model": self.store.require(*distributions.inputs["base_model"]).summary["source"],
            "terms": "",
            "kept": distributions.summary["kept"],
            "set_aside": distributions.summary["set_aside"],
            "top_k": distributions.spec["config"]["distill"]["top_k"],
        }
