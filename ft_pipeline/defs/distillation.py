"""Distillation: the teacher answers unlabelled prompts, and its answers are filtered like human rows."""

from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.distillation.answer_table import TEACHER_ANSWERS, count_prompts
from ft_pipeline.distillation.distill import DISTILLED_TABLE, distill
from ft_pipeline.distillation.teacher_facts import answer_nothing
from ft_pipeline.distillation.teacher_prompt import teacher_sha256
from ft_pipeline.execution.step_asset import step
from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.page import Columns, Lineage, Table
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.steps.base_model import base_model_spec, bases_of_experiments
from ft_pipeline.steps.column_lineage import answers_lineage, distilled_lineage
from ft_pipeline.steps.table_pages import MATCHES_SCHEMA
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

SHOWN_ANSWERS = 20
"""Number of answers on the asset's page."""
NOT_SHOWN = {"checks", "seconds", "resumed"}
"""What the summary of the answers has for other readers."""


@step(
    stage="distillation",
    deps=["unlabelled", "conversations"],
    kinds={"pytorch", "huggingface"},
    code_version="3",
    checks=[MATCHES_SCHEMA],
    gpu=lambda project: project.settings.teacher.endpoint is None,
    build=lambda build: answer_nothing(build.spec.config["teacher"], build.out),
    builds_here=lambda spec: spec.handling.get("prompts") == 0,
    show=lambda artifact: _answers_metadata(artifact),
)
def teacher_answers(context: SpecContext) -> Spec:
    """What the teacher answered to the prompts in `unlabelled`. Empty, if the project has none.

    **Look here** to read the answers, and to see what they cost. A teacher may be a model on this machine or a server.

    **If it fails:** the server refused, or too many requests failed. Answers that were paid for are kept: run again to
    request only the missing ones (docs/distillation.md).
    """
    teacher = context.project.settings.teacher
    unlabelled = context.checked_artifact("unlabelled")
    inputs = {
        "unlabelled": unlabelled.reference,
        "conversations": context.checked_artifact("conversations").reference,
    }
    config, handling = teacher.config_and_handling()
    if teacher.endpoint is not None:
        return Spec("teacher_answers", inputs, {"teacher": config}, seed=teacher.seed, handling=handling)
    handling["prompts"] = count_prompts(unlabelled.path)
    if not has_teacher(context):
        return Spec("teacher_answers", inputs, {"teacher": config}, seed=teacher.seed, handling=handling)
    model = base_model_spec(context, teacher.model, teacher.revision, teacher.chat_template_kwargs)
    base = context.built_artifact(model)
    inputs["base_model"] = base.reference
    versions, config = versions_of("torch", "transformers"), {"teacher": config, **ignored_while_decoding(base.path)}
    return Spec("teacher_answers", inputs, config, versions, seed=teacher.seed, handling=handling)


def has_teacher(context: SpecContext) -> bool:
    """Whether the project has a teacher. The embedded model, which is the default, is none if there are no prompts and
    no experiment trains it: it would be unpacked, and scored, for nothing."""
    teacher = context.project.settings.teacher
    if teacher.endpoint is not None or teacher.model != EMBEDDED or EMBEDDED in bases_of_experiments(context):
        return True
    unlabelled = context.find("unlabelled")
    return unlabelled is not None and count_prompts(unlabelled.path) > 0


@step(
    stage="distillation",
    deps=["teacher_answers", "conversations"],
    kinds={"parquet"},
    code_version="5",
    checks=[
        CheckSpec("answers_accounted_for", "answers = kept + set aside."),
        CheckSpec("some_answers_kept", "At least one answer passed the filters.", blocking=False),
        MATCHES_SCHEMA,
    ],
    build=lambda build: _build_distilled(build),
    show=lambda artifact: _distilled_metadata(artifact),
)
def distilled(context: SpecContext) -> Spec:
    """The teacher's answers that passed the filters. Experiments may train on them, besides people's rows.

    **Look here** to compare answers that were kept with answers that were set aside.

    **If `some_answers_kept` is yellow:** the filters kept nothing. `samples` says why; change the teacher's prompt, or
    take a larger teacher (docs/distillation.md).
    """
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


def _build_distilled(build: BuildContext) -> dict[str, Any]:
    config = build.spec.config
    return distill(
        build.inputs["teacher_answers"],
        build.inputs["conversations"],
        build.out,
        teacher=config["teacher"],
    )


def _answers_metadata(artifact: Artifact) -> dict[str, Any]:
    rows = pq.read_table(artifact.path / "answers.parquet").slice(0, SHOWN_ANSWERS).to_pylist()
    answers = [
        {
            "message": row["prompt_messages"][-1]["content"],
            "answer": row["answer"] or row["failure"],
            "finish": row["finish_reason"],
        }
        for row in rows
    ]
    return {
        "answers_shown": Table(answers),
        **{key: value for key, value in artifact.summary.items() if key not in NOT_SHOWN},
        "dagster/column_lineage": Lineage(answers_lineage()),
        "dagster/column_schema": Columns(TEACHER_ANSWERS),
    }


def _distilled_metadata(artifact: Artifact) -> dict[str, Any]:
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
