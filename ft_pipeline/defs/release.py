"""Release: the champion, its model card, and the report of the comparison that decided it."""

import json
from dataclasses import replace
from typing import Any

import dagster as dg

from ft_pipeline.evaluation.comparison.records import read_comparison
from ft_pipeline.execution.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.release.candidates import decision_key_of, find_candidates
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.champion import ChampionRecord, champion_before, history, manually_rejected, promote
from ft_pipeline.release.model_lookup import model_of_record
from ft_pipeline.release.promotion import decide, promotion_of
from ft_pipeline.release.report.report import FILE_NAME as REPORT
from ft_pipeline.release.report.report import render_report
from ft_pipeline.settings.project import PromotionSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


@step(
    stage="release",
    deps=["comparison", "recommendation"],
    kinds={"json"},
    code_version="2",
    checks=[
        CheckSpec(
            "moved",
            "A candidate beat the best baseline and the current champion, or a user moved it. If not, the reasons say "
            "why.",
            blocking=False,
        )
    ],
    build=lambda making: _build_champion(making),
    show=lambda artifact: {key: value for key, value in artifact.summary.items() if key != "checks"},
)
def champion(at: SpecContext) -> Spec:
    """The released model. It changes only to a candidate that is better by more than noise and passed every check."""
    comparison = at.artifact("comparison")
    settings = at.project.settings.promotion.model_dump(mode="json")
    standing = champion_before(at.store.root, decision_key_of(comparison))
    config = {"promotion": settings, "standing": standing.sequence if standing else None}
    return Spec("champion", {"comparison": comparison.reference}, config)


@step(
    stage="release",
    deps=["champion", "comparison", "recommendation"],
    kinds={"markdown"},
    code_version="4",
    build=lambda making: _build_card(making),
    show=lambda artifact: {"card": dg.MetadataValue.md((artifact.path / "README.md").read_text(encoding="utf-8"))},
)
def model_card(at: SpecContext) -> Spec:
    """The champion's model card in the Hugging Face format, filled in from the store."""
    assets = ("champion", "comparison", "recommendation")
    teacher = at.project.settings.teacher
    config = {
        "project": at.project.settings.model_dump(mode="json", include={"name", "task"}),
        "teacher": {"terms": teacher.terms},
    }
    return Spec("model_card", {asset: at.artifact(asset).reference for asset in assets}, config)


@step(
    stage="release",
    deps=["comparison", "recommendation", "champion"],
    kinds={"html"},
    code_version="2",
    build=lambda making: _build_report(making),
    show=lambda artifact: _show_report(artifact),
)
def report(at: SpecContext) -> Spec:
    """The comparison as one HTML file to share: the recommendation, the scores, and all answers side by side."""
    assets = ("comparison", "recommendation", "champion")
    config = {"project": at.project.settings.model_dump(mode="json", include={"name", "task"})}
    return Spec("report", {asset: at.artifact(asset).reference for asset in assets}, config, versions_of("jinja2"))


def _build_champion(making: BuildContext) -> dict[str, Any]:
    compared = making.artifact("comparison")
    comparison = read_comparison(compared)
    candidates, serving = find_candidates(compared, making.store)
    key = decision_key_of(compared)
    settings = PromotionSettings.model_validate(making.spec.config["promotion"])
    reasons: list[str] = []

    def choose(present: ChampionRecord | None) -> Any:
        if present is not None and not present.by_hand and present.evidence.get("decided_on") == key:
            return None  # an earlier run carried out this decision, and died before it reported it
        decision = decide(comparison, candidates, settings, present, manually_rejected(history(making.store.root)))
        reasons[:] = decision.reasons
        move = promotion_of(decision, candidates, compared.fingerprint)
        if move is None:
            return None
        return replace(move, evidence={**move.evidence, "decided_on": key, "served": serving[move.candidate.name]})

    present = promote(making.store.root, choose)
    record = present.to_json() if present else None
    moved = present is not None and key == (
        present.looked_at if present.by_hand else present.evidence.get("decided_on")
    )
    (making.out / "champion.json").write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    message = present.reason if moved and present else "the champion is unchanged: " + "; ".join(reasons)
    check = {"passed": moved, "blocking": False, "message": message}
    return {"champion": record, "moved": moved, "reasons": reasons, "checks": {"moved": check}}


def _build_card(making: BuildContext) -> dict[str, Any]:
    """Collect facts from the champion back to the tables, and write them as the card."""
    released = making.artifact("champion").summary["champion"]
    text = "# No champion yet\n\nNothing has been released; see the recommendation.\n"
    if released:
        model = model_of_record(making.store, ChampionRecord(**released))
        settings = making.spec.config
        facts = card_facts(
            making.store,
            model,
            making.artifact("comparison"),
            task=settings["project"]["task"],
            teacher_terms=settings["teacher"]["terms"],
        )
        text = render_card(facts)
    (making.out / "README.md").write_text(text, encoding="utf-8")
    return {"champion": released["name"] if released else None}


def _build_report(making: BuildContext) -> dict[str, Any]:
    text = render_report(
        making.store,
        making.artifact("comparison"),
        making.artifact("recommendation"),
        making.artifact("champion"),
        making.spec.config["project"],
    )
    (making.out / REPORT).write_text(text, encoding="utf-8")
    return {"bytes": len(text.encode())}


def _show_report(artifact: Artifact) -> dict[str, Any]:
    place = artifact.path / REPORT
    how = "`ft report --open` opens it. It is a single self-contained file that you can share."
    return {
        "report": dg.MetadataValue.path(str(place)),
        "link": dg.MetadataValue.url(place.resolve().as_uri()),
        "how": dg.MetadataValue.md(how),
        "megabytes": round(artifact.summary["bytes"] / 1e6, 2),
    }
