"""What each group of rows does for the score, and which labels are probably wrong. Empty without `worth.by`.

**Look here** before you buy more rows, or throw some away. `recommendation` repeats what is shown.

**If it has only a sentence:** the rows cannot be asked this way, and the sentence says why (docs/worth.md).
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ft_pipeline.decide.documents import ADVICE
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.page import Page, Picture, Points, Table, Words
from ft_pipeline.project import Project
from ft_pipeline.settings.slices import SliceSettings
from ft_pipeline.small_plots import Lead, leads_plot
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, has_result, spec_of, step_of, write_json
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.worth.settings import MOST_GROUPS, WorthKeys

FILE_NAME = "worth.json"
HOW = "Add `worth: {by: file}` to project.yaml, or ask `ft worth` (docs/worth.md)."
SHOWN = 20
"""Number of probably wrong labels on the page."""


class Config(StepConfig):
    """What is asked of the rows."""

    by: str | None = None
    groups: int = MOST_GROUPS
    slices: dict[str, SliceSettings] = Field(default_factory=dict)
    """Only of groups by slice."""
    price: float | None = None
    """`costs.label`."""


def used(project: Project) -> bool:
    """Return whether the settings ask for it, or did."""
    return WorthKeys.of(project.settings).worth.by is not None or has_result(project, "worth")


def spec(context: SpecContext) -> Spec:
    """Return the spec of the answer."""
    asked, settings = WorthKeys.of(context.project.settings).worth, context.project.settings
    if asked.by is None:
        return spec_of("worth", {}, Config())
    inputs = {"conversations": context.checked_artifact("conversations")}
    distilled = context.find("distilled")
    if distilled is not None and belongs_to(distilled, inputs["conversations"]):
        inputs["distilled"] = distilled
    slices = settings.evaluation.slices if asked.by == "slice" else {}
    config = Config(by=asked.by, groups=asked.groups, slices=slices, price=settings.costs.label)
    return spec_of("worth", inputs, config, libraries=("scikit-learn", "scipy"))


def belongs_to(distilled: Artifact, conversations: Artifact) -> bool:
    """Return whether answers of a teacher were filtered by these conversations: a prompt of older ones may be a test
    row now."""
    return not distilled.redacted and distilled.inputs.get("conversations") == conversations.reference


def run(job: Job) -> dict[str, Any]:
    """Write the document of `ft worth --json`, and what others show of it.

    Summary: groups, findings, wrong_labels (their expected number); or a problem, as a sentence.
    """
    from ft_pipeline.worth.answer import ask

    config = Config.of(job)
    assert config.by is not None
    try:
        document = ask(
            job.inputs["conversations"],
            job.inputs.get("distilled"),
            config.by,
            config.slices,
            most_groups=config.groups,
            price=config.price,
            tell=lambda group, place, count: job.report.progress(place, count),
        )
    except UserError as error:
        write_json(job.out / FILE_NAME, {})
        return {"problem": str(error)}
    write_json(job.out / FILE_NAME, document)
    sentences = findings(document)
    advice = {"title": "What the rows are worth", "sentences": sentences, "picture": picture(document)}
    write_json(job.out / ADVICE, advice)
    return {"groups": len(document["groups"]), "findings": sentences, "wrong_labels": document["wrong_labels"]["value"]}


def build(build: BuildContext) -> dict[str, Any]:
    """Write that nothing is asked."""
    build.write_json(FILE_NAME, {})
    return {}


def findings(document: Mapping[str, Any]) -> list[str]:
    """Return what is shown of groups, as sentences."""
    from ft_pipeline.worth.answer import say_of

    return [say_of(group) for group in document["groups"] if group["finding"] not in (None, "open")]


def picture(document: Mapping[str, Any]) -> str:
    """Return the effect of each group with its interval, in Markdown. A price is part of the name."""
    leads = [
        Lead(_named(group), *(100 * effect[end] for end in ("low", "value", "high")))
        for group in document["groups"]
        if (effect := group["effect"])["low"] is not None and effect["high"] is not None
    ]
    title = f"score with each {document['by']}, minus without it"
    return leads_plot(leads, title, "points", "effects of groups") if leads else ""


def _named(group: Mapping[str, Any]) -> str:
    return group["group"] if group["cost"] is None else f"{group['group']} ({group['cost']:,.0f})"


def page(artifact: Artifact) -> Page:
    """The effect of each group, and the labels to look at first."""
    document = artifact.document(FILE_NAME)
    if not document:
        return {"worth": Words(artifact.summary.get("problem", HOW))}
    wrong = document["wrong_labels"]
    columns = ("id", "source", "question", "label", "likely")
    return {
        "effects": Picture(drawn) if (drawn := picture(document)) else None,
        "findings": Points(artifact.summary["findings"]),
        "groups": Table([_row(group) for group in document["groups"]]),
        "wrong_labels": round(wrong["value"]),
        "wrong_labels_interval": [round(wrong["low"]), round(wrong["high"])],
        "look_at": Table([{name: row[name] for name in columns} for row in wrong["rows"][:SHOWN]]),
        "not_looked_at": document["left_out"] or None,
    }


def _row(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group in points."""
    from ft_pipeline.worth.answer import SCORES

    in_points = {name: None if group[name] is None else round(100 * group[name]["value"], 1) for name in SCORES}
    return {"group": group["group"], "rows": group["rows"], **in_points, "finding": group["finding"] or ""}


STEP = step_of(
    __name__,
    stage="evaluation",
    deps=("conversations", "distilled"),
    kinds=frozenset({"json"}),
    builds_here=lambda spec: not spec.inputs,
)
