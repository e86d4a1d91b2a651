"""The comparison as one HTML file to share: the verdict, the scores, and all answers side by side.

**Look here** for the answers that got worse. Read them before you trust a score. `ft report --open` opens it all.
"""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import TypeAdapter

from ft_pipeline.evaluation.error_analysis.worse_answers import WorseAnswer, WorseAnswers
from ft_pipeline.page import REPORT_ADDRESS, Hidden, Link, Page, Table
from ft_pipeline.release.report.report import FILE_NAME as REPORT
from ft_pipeline.release.report.report import render_report
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, only, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

WORSE_ANSWERS = "worse_answers.json"
"""The error analysis, beside the report."""
WORST_SHOWN = 5
"""Number of answers that got worse on the page of the report."""
WORSE_ANSWER_COLUMNS = {
    "question": "The turn before the answer",
    "answer_before": "What the best baseline answers",
    "answer_after": "What the tuned model answers",
    "reference": "What people wrote",
    "faults": "What is wrong with the tuned model's answer",
    "like_row": "The training row whose answer shares the most 3-word sequences with it: table/file:row",
    "shared": "Share of these sequences that the row has",
}


class Config(StepConfig):
    """What the report says besides results."""

    project: Annotated[ProjectSettings, only("name", "task")]


def spec(context: SpecContext) -> Spec:
    """Return the spec of the report."""
    assets = ("comparison", "decision", "recommendation", "champion")
    config = Config(project=context.project.settings)
    return spec_of("report", {asset: context.artifact(asset) for asset in assets}, config, libraries=("jinja2",))


def build(build: BuildContext) -> dict[str, Any]:
    """Write the HTML file, and the error analysis beside it."""
    text, worse = render_report(
        build.store,
        build.artifact("comparison"),
        build.artifact("decision"),
        build.artifact("recommendation"),
        build.artifact("champion"),
        build.spec.config["project"],
    )
    (build.out / REPORT).write_text(text, encoding="utf-8")
    if worse is not None:
        build.write_json(WORSE_ANSWERS, asdict(worse))
    return {"bytes": len(text.encode())}


def page(artifact: Artifact) -> Page:
    """What tuning made worse, and where the file is."""
    return {
        **_worse_answers(artifact),
        "how": "The link opens it in the UI of ft ui, and ft report --open anywhere. It is a single file to share.",
        "report": Link(REPORT_ADDRESS),
        "file": Hidden(str(artifact.path / REPORT)),
        "megabytes": round(artifact.summary["bytes"] / 1e6, 2),
    }


def _worse_answers(artifact: Artifact) -> dict[str, Any]:
    """What tuning made worse, for the page of the report; nothing if nothing was tuned."""
    if not (artifact.path / WORSE_ANSWERS).is_file():
        return {}
    found = TypeAdapter(WorseAnswers).validate_python(artifact.document(WORSE_ANSWERS))
    return {
        "worse_answers": Table([_shown_answer(answer) for answer in found.worst[:WORST_SHOWN]], WORSE_ANSWER_COLUMNS),
        "worse_by_fault": Table([asdict(count) for count in found.faults]),
        "worse_by_slice": Table([asdict(count) for count in found.slices]),
    }


def _shown_answer(answer: WorseAnswer) -> dict[str, Any]:
    like = answer.like_answer
    return {
        "question": answer.question,
        "answer_before": answer.before,
        "answer_after": answer.after,
        "reference": answer.reference,
        "faults": "; ".join(answer.faults),
        "like_row": like.origin if like else "",
        "shared": f"{like.shared:.0%}" if like else "",
    }


STEP = step_of(
    __name__,
    stage="release",
    deps=("comparison", "decision", "recommendation", "champion"),
    kinds=frozenset({"html"}),
    code_version="6",
)
