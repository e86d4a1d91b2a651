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
from ft_pipeline.settings.yaml_file import Section
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.steps.shared.column_lineage import distilled_lineage
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec


class Teacher(Section):
    """Who answered, under which terms."""

    model: str
    fingerprint: str | None
    """The hash of a local model's content, or of an endpoint's address and the requested model name; None without a
    teacher."""
    terms: str
    """They change no row, but an audit shows the terms under which rows were made."""


class Config(StepConfig):
    """What the filters depend on, besides the answers and people's rows."""

    teacher: Teacher


def spec(context: SpecContext) -> Spec:
    """Return the spec of the filtered answers."""
    settings, answers = context.project.settings.teacher, context.artifact("teacher_answers")
    inputs = {"teacher_answers": answers, "conversations": context.checked_artifact("conversations")}
    fingerprint = _teacher_fingerprint(answers, settings)
    teacher = Teacher(model=settings.model, fingerprint=fingerprint, terms=settings.terms)
    return spec_of("distilled", inputs, Config(teacher=teacher))


def _teacher_fingerprint(answers: Artifact, teacher: TeacherSettings) -> str | None:
    """Return `Teacher.fingerprint`."""
    if base_model := answers.inputs.get("base_model"):
        return base_model[1]
    return teacher_sha256(teacher) if teacher.endpoint else None


def build(build: BuildContext) -> dict[str, Any]:
    """Filter the answers."""
    teacher = Config.of(build.spec).teacher.model_dump()
    return distill(build.inputs["teacher_answers"], build.inputs["conversations"], build.out, teacher=teacher)


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
