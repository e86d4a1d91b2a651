"""The decision about the champion, which is made once, and the recommendation, which follows it."""

import contextlib
import json
from dataclasses import asdict
from typing import Any

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.desk import Decided, Desk
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.recommend import build_recommendation
from ft_pipeline.decide.requirements import Requirements
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.training_facts import training_facts_of
from ft_pipeline.evaluation.reward_config import checks_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.page import Points, Table, Words
from ft_pipeline.release.candidates import decision_key_of
from ft_pipeline.release.champion import champion_before
from ft_pipeline.release.looks import decided_by
from ft_pipeline.release.recorded_decision import decision_document
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.step import BuildContext, SpecContext
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.training.objectives.registry import OBJECTIVES


@step(
    stage="evaluation",
    deps=["comparison"],
    kinds={"json"},
    code_version="10",
    build=lambda build: _build_decision(build),
    show=lambda artifact: _decision_metadata(artifact),
)
def decision(context: SpecContext) -> Spec:
    """Whether a candidate is better by more than chance, by the rules of docs/release.md.

    **Look here** for the verdict and its reasons. Each look at test scores is recorded, and
    makes the next test stricter.

    **If the verdict is no:** `reasons` says what is missing. More test rows make small differences visible.
    """
    comparison = context.artifact("comparison")
    key, root, settings = decision_key_of(comparison), context.store.root, context.project.settings
    standing = champion_before(root, key)
    config = {
        "promotion": settings.promotion.model_dump(mode="json"),
        "standing": standing.sequence if standing else None,
        "exposures": exposure_ledger.last_entry_before(root, key),
        "test_share": settings.data.test_share,
        "read": decided_by(settings),
    }
    return Spec("decision", {"comparison": comparison.reference}, config)


@step(
    stage="evaluation",
    deps=["comparison", "decision"],
    kinds={"json"},
    code_version="8",
    build=lambda build: _build_recommendation(build),
    show=lambda artifact: _recommendation_metadata(artifact),
)
def recommendation(context: SpecContext) -> Spec:
    """What to do next: fine-tune or not, with what, and why.

    **Look here** for the answer to "should we fine-tune?", with its reasons (`ft recommend` prints the same).

    **If it says `more_data`, `rate`, `measure` or `train`:** the scores cannot decide yet. The verdict says what is
    missing.
    """
    config = {
        "min_test_rows": context.project.settings.promotion.min_test_rows,
        "at_hand": asdict(_data_at_hand(context)),
    }
    inputs = {name: context.artifact(name).reference for name in ("comparison", "decision")}
    return Spec("recommendation", inputs, config)


def _data_at_hand(context: SpecContext) -> DataAtHand:
    """What the project has to train on. Tables are named and not counted, so that a new row changes nothing here."""
    tables = {spec.fits[0] for spec in OBJECTIVES.values() if spec.fits is not None}
    with_rows = [name for name in sorted(tables) if _has_rows(context.find(name))]
    experiments: dict[str, list[str]] = {}
    for name in context.project.experiment_names():
        with contextlib.suppress(UserError):  # a broken YAML is told elsewhere
            if not is_sweep_member(name):
                experiments.setdefault(context.project.experiment(name).objective, []).append(name)
    return DataAtHand(with_rows, checks_of(context.project.settings.evaluation), experiments)


def _has_rows(table: Artifact | None) -> bool:
    summary = table.summary if table is not None else {}
    return bool(summary.get("accepted") or sum(summary.get("splits", {}).values()))


def _build_recommendation(build: BuildContext) -> dict[str, Any]:
    comparison_artifact = build.artifact("comparison")
    document = build.artifact("decision").document("decision.json")
    comparison = whole_comparison(comparison_artifact)
    desk = Desk(
        comparison,
        as_shown(comparison),
        training_facts_of(build.store, comparison_artifact.inputs),
        build.spec.config["min_test_rows"],
        Decided.of(document),
        DataAtHand(**build.spec.config["at_hand"]).describe_fits(comparison),
    )
    return build_recommendation(desk, document["verdict"]["sentence"], build.out)


def _build_decision(build: BuildContext) -> dict[str, Any]:
    config = build.spec.config
    document = decision_document(
        build.store,
        build.artifact("comparison"),
        PromotionSettings.model_validate(config["promotion"]),
        config["standing"],
        test_share=config["test_share"],
        read=config["read"],
    )
    (build.out / "decision.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    return {key: document[key] for key in ("verdict", "exposure")} | {"reasons": document["decision"]["reasons"]}


def _recommendation_metadata(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    return {
        "verdict": Words(summary["verdict"]) if "verdict" in summary else None,  # older artifacts lack it
        "decision": summary["decision"],
        "row": summary.get("row"),
        "reasons": Points(summary["reasons"]),
        "evidence": summary["evidence"],
    }


def _decision_metadata(artifact: Artifact) -> dict[str, Any]:
    said, exposure, requirements = artifact.summary["verdict"], artifact.summary["exposure"], _requirements(artifact)
    document = artifact.document("decision.json")["decision"]
    tests = [
        {"candidate": test["name"], "rivals": ", ".join(test["rivals"]), "p": test["p"], "level": test["level"]}
        for test in document["tests"]
    ]
    earlier = f"{exposure['before']:.0f} before this comparison"
    return {
        "verdict": Words(f"**{said['sentence']}**\n\n{said['basis']}"),
        "reasons": Points(artifact.summary["reasons"]),
        "looks_at_the_test_rows": earlier,
        **({"tests": Table(tests)} if tests else {}),
        **({"requirements": Table(requirements)} if requirements else {}),
    }


def _requirements(artifact: Artifact) -> list[dict[str, str]]:
    """A line per requirement of a release, with what each candidate meets of it. Decisions of older versions do not
    say it."""
    found = Requirements.of(artifact.document("decision.json"))
    return [
        {"requirement": name, **{row: outcome or "" for row, outcome in zip(found.matrix, outcomes, strict=True)}}
        for name, outcomes in found.lines()
    ]
