"""Release: the champion, and the card that goes with it."""

import json
from dataclasses import replace
from typing import Any

import dagster as dg

from ft_pipeline.execution.steps import Check, Inputs, Making, step
from ft_pipeline.release.candidates import candidates, key_of, row_of
from ft_pipeline.release.champion import Record, before_deciding_on, held_back, history, promote
from ft_pipeline.release.model_card import CardFacts, render_card
from ft_pipeline.release.promotion import decide, promotion
from ft_pipeline.settings import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


@step(
    stage="release",
    deps=["comparison", "recommendation"],
    kinds={"json"},
    code_version="2",
    checks=[
        Check(
            "moved",
            "A candidate beat the best prompt and the present champion, or a person moved it; the reasons say why not.",
            blocking=False,
        )
    ],
    build=lambda making: _build_champion(making),
    show=lambda artifact: {key: value for key, value in artifact.summary.items() if key != "checks"},
)
def champion(at: Inputs) -> Spec:
    """The released model: moves only to a candidate that is better by more than noise and passed every gate."""
    comparison = at.artifact("comparison")
    settings = at.project.settings.promotion.model_dump(mode="json")
    standing = before_deciding_on(at.store.root, key_of(comparison))
    config = {"promotion": settings, "standing": standing.sequence if standing else None}
    return Spec("champion", {"comparison": comparison.reference}, config)


@step(
    stage="release",
    deps=["champion", "comparison", "recommendation"],
    kinds={"markdown"},
    code_version="3",
    build=lambda making: _build_card(making),
    show=lambda artifact: {"card": dg.MetadataValue.md((artifact.path / "README.md").read_text(encoding="utf-8"))},
)
def model_card(at: Inputs) -> Spec:
    """The champion's card in the Hugging Face format, filled in from the store."""
    assets = ("champion", "comparison", "recommendation")
    teacher = at.project.settings.teacher
    config = {
        "project": at.project.settings.model_dump(mode="json", include={"name", "task"}),
        "teacher": {"terms": teacher.terms},
    }
    return Spec("model_card", {asset: at.artifact(asset).reference for asset in assets}, config)


def _build_champion(making: Making) -> dict[str, Any]:
    compared = making.artifact("comparison")
    document = compared.document("comparison.json")
    known, served = candidates(compared, making.store)
    key = key_of(compared)
    settings = PromotionSettings.model_validate(making.spec.config["promotion"])
    reasons: list[str] = []

    def choose(present: Record | None) -> Any:
        if present is not None and not present.by_hand and present.evidence.get("decided_on") == key:
            return None  # this very decision was carried out by a run that died before it could say so
        decision = decide(document, known, settings, present, held_back(history(making.store.root)))
        reasons[:] = decision.reasons
        move = promotion(decision, known, compared.fingerprint)
        if move is None:
            return None
        return replace(move, evidence={**move.evidence, "decided_on": key, "served": served[move.candidate.name]})

    present = promote(making.store.root, choose)
    record = present.to_json() if present else None
    moved = present is not None and key == (
        present.looked_at if present.by_hand else present.evidence.get("decided_on")
    )
    (making.out / "champion.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    message = present.reason if moved and present else "unchanged: " + "; ".join(reasons)
    check = {"passed": moved, "blocking": False, "message": message}
    return {"champion": record, "moved": moved, "reasons": reasons, "checks": {"moved": check}}


def _build_card(making: Making) -> dict[str, Any]:
    """Walk from the champion back to the tables, and write down what stands there."""
    record = making.artifact("champion").summary["champion"]
    document = making.artifact("comparison").document("comparison.json")
    facts = _card_facts(making, record, document) if record else None
    text = render_card(facts) if facts else "# No champion yet\n\nNothing has been released; see the recommendation.\n"
    (making.out / "README.md").write_text(text, encoding="utf-8")
    return {"champion": record["name"] if record else None}


def _card_facts(making: Making, record: dict[str, Any], document: dict[str, Any]) -> CardFacts:
    lineage = _Lineage(making, record)
    known, _ = candidates(making.artifact("comparison"), making.store)
    base = lineage.base_model
    return CardFacts(
        name=record["name"],
        row=row_of(document, known, record["fingerprint"]),
        kind=record["kind"],
        task=making.spec.config["project"]["task"],
        base_model=base.summary["source"],
        hub_id=base.spec["config"]["model"] if "/" in base.spec["config"]["model"] else None,
        license="apache-2.0" if base.spec["config"]["model"] == "embedded" else None,
        data=lineage.data(),
        splits=lineage.conversations.summary["splits"],
        comparison=document,
        fingerprints={**record["fingerprints"], "comparison": making.artifact("comparison").fingerprint},
        training=lineage.settings(),
        outcome=lineage.merged_input("adapter").summary if lineage.merged else {},
        audit=lineage.merged_input("training_data").summary["audit"] if lineage.merged else {},
        merge=lineage.merged.summary if lineage.merged else {},
        teacher=lineage.teacher(),
        prompt=record["evidence"].get("served", {}),
        champion=record,
    )


class _Lineage:
    """The champion's artifacts, found through the inputs that the manifests name."""

    def __init__(self, making: Making, record: dict[str, Any]) -> None:
        self.making = making
        self.store = making.store
        parts = record["fingerprints"]
        self.base_model = self.store.require("base_model", parts["base_model"])
        self.merged = self.store.require("merged_model", parts["merged_model"]) if "merged_model" in parts else None

    def merged_input(self, name: str) -> Artifact:
        assert self.merged is not None
        return self.store.require(*self.merged.inputs[name])

    @property
    def conversations(self) -> Artifact:
        if self.merged:
            return self.store.require(*self.merged_input("training_data").inputs["conversations"])
        compared = self.making.artifact("comparison")
        scored = next(reference for name, reference in sorted(compared.inputs.items()) if "/prompt_baseline" in name)
        return self.store.require(*self.store.require(*scored).inputs["conversations"])

    def data(self) -> dict[str, dict[str, Any]]:
        """Counts by table: read, accepted, quarantined, duplicates, reasons."""
        tables = {name: self.store.require(*self.conversations.inputs[name]) for name in ("alpaca", "sharegpt")}
        keys = ("read", "accepted", "quarantined", "duplicates", "reasons")
        return {name: {key: found.summary[key] for key in keys} for name, found in tables.items()}

    def settings(self) -> dict[str, Any]:
        return self.merged_input("adapter").spec["config"]["experiment"] if self.merged else {}

    def teacher(self) -> dict[str, Any]:
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
            "terms": self.making.spec.config["teacher"]["terms"],
            **kept,
            "weight": settings["weights"]["distilled"],
        }
