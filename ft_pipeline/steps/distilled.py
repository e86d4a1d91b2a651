"""The teacher's answers that passed the filters. Experiments may train on them, besides people's rows.

**Look here** to compare answers that were kept with answers that were set aside.

**If `some_answers_kept` is yellow:** the filters kept nothing. `samples` says why; change the teacher's prompt, or
take a larger teacher (docs/distillation.md).
"""

from typing import Any

from ft_pipeline.distillation.distill import DISTILLED_TABLE, distill
from ft_pipeline.distillation.teacher_prompt import teacher_sha256
from ft_pipeline.page import Columns, Lineage, Page, Table
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, step_of
from ft_pipeline.steps.shared.column_lineage import distilled_lineage
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


def spec(context: SpecContext) -> Spec:
    """Return the spec of the filtered answers."""
    settings = context.project.settings
    answers = context.artifact("teacher_answers")
    inputs = {
        "teacher_answers": answers.reference,
        "conversations": context.checked_artifact("conversations").reference,
    }
    teacher = settings.teacher
    config = {
        "teacher": {
            "model": teacher.model,
            "fingerprint": _teacher_fingerprint(answers, teacher),
            "terms": teacher.terms,  # changes no row, but an audit shows the terms under which rows were made
        },
    }
    return Spec("distilled", inputs, config)


def _teacher_fingerprint(answers: Artifact, teacher: TeacherSettings) -> str | None:
    """The hash of a local model's content, or of an endpoint's address and the requested model name; None without a
    teacher."""
    if base_model := answers.inputs.get("base_model"):
        return base_model[1]
    return teacher_sha256(teacher) if teacher.endpoint else None


def build(build: BuildContext) -> dict[str, Any]:
    """Filter the answers."""
    config = build.spec.config
    return distill(
        build.inputs["teacher_answers"],
        build.inputs["conversations"],
        build.out,
        teacher=config["teacher"],
    )


def page(artifact: Artifact) -> Page:
    """Answers that were kept, and others that were set aside."""
    summary = artifact.summary
    columns = ("kept", "prompt", "answer", "code", "message")
    samples = [
        {"kept": "yes" if group == "kept" else "no", **{name: row.get(name, "") for name in columns[1:]}}
        for group in ("kept", "set_aside")
        for row in summary["samples"][group]
    ]
    keys = ("answers", "kept", "set_aside", "reasons", "thresholds", "length_range")
    return {
        "samples": Table(samples),
        **{key: summary[key] for key in keys},
        "dagster/row_count": summary["kept"],
        "dagster/column_lineage": Lineage(distilled_lineage()),
        "dagster/column_schema": Columns(DISTILLED_TABLE),
    }


CHECKS = (
    CheckSpec("answers_accounted_for", "answers = kept + set aside."),
    CheckSpec("some_answers_kept", "At least one answer passed the filters.", blocking=False),
    MATCHES_SCHEMA,
)

STEP = step_of(
    __name__,
    stage="distillation",
    deps=("teacher_answers", "conversations"),
    kinds=frozenset({"parquet"}),
    code_version="5",
)
