"""The champion's model card in the Hugging Face format, written from what was measured.

**Look here** for what the model is for, what it was trained on, its scores and its limits. Every export
contains it.
"""

import re
from typing import Annotated, Any

from ft_pipeline.decide.comparison import CHAMPION
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.page import Hidden, Page, Words
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.model_lookup import model_of_record
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.small_plots import SHOWN_CHARACTERS
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, only, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


class Config(StepConfig):
    """What the card says besides results."""

    project: Annotated[ProjectSettings, only("name", "task")]
    teacher: Annotated[TeacherSettings, only("terms")]


def spec(context: SpecContext) -> Spec:
    """Return the spec of the champion's card."""
    assets = ("champion", "comparison", "decision", "recommendation")
    settings = context.project.settings
    config = Config(project=settings, teacher=settings.teacher)
    return spec_of("model_card", {asset: context.artifact(asset) for asset in assets}, config)


def build(build: BuildContext) -> dict[str, Any]:
    """Collect facts from the champion back to the tables, and write them as the card."""
    record = build.artifact("champion").summary["champion"]
    text = "# No champion yet\n\nNothing has been released; see the recommendation.\n"
    if record:
        model = model_of_record(build.store, ChampionRecord.model_validate(record))
        config = Config.of(build.spec)
        facts = card_facts(
            build.store,
            model,
            build.artifact("comparison"),
            task=config.project.task,
            teacher_terms=config.teacher.terms,
            decided=_decided_about(build, record["name"]),
        )
        text = render_card(facts)
    (build.out / "README.md").write_text(text, encoding="utf-8")
    return {"champion": record["name"] if record else None}


def _decided_about(build: BuildContext, name: str) -> dict[str, Any] | None:
    """Return decision.json if its verdict is about the champion, by the name of its row, or made it the champion."""
    document = build.artifact("decision").document("decision.json")
    made = document["decision"]["name"] if document["decision"]["move"] else None
    return document if name == made or document["verdict"]["row"] in (name, CHAMPION) else None


def page(artifact: Artifact) -> Page:
    """The card without the YAML before it, which is for the hub: its beginning, and the whole."""
    text = (artifact.path / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text
    return {"summary": Words(_beginning(body)), "card": Hidden(body)}


def _beginning(markdown: str) -> str:
    """Return the first paragraphs of a text, as many as the page shows without a click, up to the first table.

    Headings are bold, as their large letters need too much room.
    """
    shown = ""
    for paragraph in re.sub("(?m)^#+ (.*)$", r"**\1**", markdown.strip()).split("\n\n"):
        if paragraph.startswith("|"):
            break
        if len(shown) + len(paragraph) + 2 > SHOWN_CHARACTERS:
            break
        shown += f"{paragraph}\n\n"
    return shown.strip()


STEP = step_of(
    __name__,
    stage="release",
    deps=("champion", "comparison", "decision", "recommendation"),
    kinds=frozenset({"markdown"}),
    code_version="7",
)
