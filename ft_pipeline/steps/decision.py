"""Whether a candidate is better by more than chance, by the rules of docs/release.md.

**Look here** for the verdict and its reasons. Each look at test scores is recorded, and
makes the next test stricter.

**If the verdict is no:** `reasons` says what is missing. More test rows make small differences visible.
"""

from typing import Any

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.requirements import Requirements
from ft_pipeline.page import Page, Points, Table, Words
from ft_pipeline.release.candidates import decision_key_of
from ft_pipeline.release.champion import champion_before
from ft_pipeline.release.looks import decided_by
from ft_pipeline.release.recorded_decision import decision_document
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


class Config(StepConfig):
    """What decides, besides the comparison."""

    promotion: PromotionSettings
    standing: int | None
    """The record of the champion that the decision is about."""
    exposures: int | None
    """The last entry of the ledger of looks before this comparison."""
    test_share: float
    read: dict[str, Any]
    """The settings that a decision reads, by their names in project.yaml."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of the decision about the comparison."""
    comparison = context.artifact("comparison")
    key, root, settings = decision_key_of(comparison), context.store.root, context.project.settings
    standing = champion_before(root, key)
    config = Config(
        promotion=settings.promotion,
        standing=standing.sequence if standing else None,
        exposures=exposure_ledger.last_entry_before(root, key),
        test_share=settings.data.test_share,
        read=decided_by(settings),
    )
    return spec_of("decision", {"comparison": comparison}, config)


def build(build: BuildContext) -> dict[str, Any]:
    """Decide, and write decision.json."""
    config = Config.of(build.spec)
    document = decision_document(
        build.store,
        build.artifact("comparison"),
        config.promotion,
        config.standing,
        test_share=config.test_share,
        read=config.read,
    )
    build.write_json("decision.json", document)
    return {key: document[key] for key in ("verdict", "exposure")} | {"reasons": document["decision"]["reasons"]}


def page(artifact: Artifact) -> Page:
    """The verdict, its tests, and what each candidate meets."""
    said, exposure = artifact.summary["verdict"], artifact.summary["exposure"]
    document = artifact.document("decision.json")
    tests = [
        {"candidate": test["name"], "rivals": ", ".join(test["rivals"]), "p": test["p"], "level": test["level"]}
        for test in document["decision"]["tests"]
    ]
    requirements = Requirements.of(document).section()
    earlier = f"{exposure['before']:.0f} before this comparison"
    return {
        "verdict": Words(f"**{said['sentence']}**\n\n{said['basis']}"),
        "reasons": Points(artifact.summary["reasons"]),
        "looks_at_the_test_rows": earlier,
        **({"tests": Table(tests)} if tests else {}),
        "requirements": requirements.grid if requirements else None,  # decisions of older versions do not say them
    }


STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("comparison",),
    kinds=frozenset({"json"}),
    code_version="11",
)
