"""Distillation: the teacher answers unlabelled prompts, and its answers are filtered as human rows are."""

from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.defs.column_lineage import ANSWERS, answers_lineage, column_lineage, distilled_lineage
from ft_pipeline.defs.training_chain import base_model_spec
from ft_pipeline.distillation.distill import distill
from ft_pipeline.distillation.teacher_prompt import teacher_sha256
from ft_pipeline.execution.metadata import column_schema, table
from ft_pipeline.execution.step import BuildContext, CheckSpec, SpecContext, versions_of
from ft_pipeline.execution.step_asset import step
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.checks.content_checks import describe_columns

SHOWN_ANSWERS = 20
NOT_ASKED = {"terms", "model", "revision", "endpoint", "in_comparison", "engine"}
"""Settings of a local teacher that change no answer, or only through the model's fingerprint."""
NOT_SENT = {"terms", "revision", "batch_size", "endpoint", "in_comparison", "engine"}
SENT = {"url", "limit_field", "send_seed"}
"""Endpoint settings that are part of its requests. The others control sending: rates, patience, budget."""


@step(
    stage="distillation",
    deps=["unlabelled", "conversations"],
    kinds={"pytorch", "huggingface"},
    code_version="3",
    gpu=lambda project: project.settings.teacher.endpoint is None,
    show=lambda artifact: _show_answers(artifact),
)
def teacher_answers(at: SpecContext) -> Spec:
    """The teacher's answers to the prompts in `unlabelled`, given its system prompt and fixed examples."""
    teacher = at.project.settings.teacher
    inputs = {
        "unlabelled": at.passed("unlabelled").reference,
        "conversations": at.passed("conversations").reference,
    }
    config, handling = asked_settings(teacher)
    if teacher.endpoint is not None:
        return Spec("teacher_answers", inputs, {"teacher": config}, seed=teacher.seed, handling=handling)
    inputs["base_model"] = at.built(base_model_spec(teacher.model, teacher.revision)).reference
    versions = versions_of("torch", "transformers")
    return Spec("teacher_answers", inputs, {"teacher": config}, versions, seed=teacher.seed, handling=handling)


def asked_settings(teacher: TeacherSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (config, handling) of a spec.

    config: the settings that the teacher's answers depend on; handling: those that control how it is called.
    """
    if teacher.endpoint is None:
        return teacher.model_dump(mode="json", exclude=NOT_ASKED), {"engine": teacher.engine}
    asked = teacher.model_dump(mode="json", exclude=NOT_SENT)
    endpoint = teacher.endpoint.model_dump(mode="json", include=SENT)
    return {**asked, "endpoint": endpoint}, {"endpoint": teacher.endpoint.model_dump(mode="json", exclude=SENT)}


@step(
    stage="distillation",
    deps=["teacher_answers", "conversations"],
    kinds={"parquet"},
    code_version="3",
    checks=[
        CheckSpec("answers_accounted_for", "answers = kept + set aside."),
        CheckSpec("some_answers_kept", "At least one answer passed the filters.", blocking=False),
    ],
    build=lambda making: _build_distilled(making),
    show=lambda artifact: _show_distilled(artifact),
)
def distilled(at: SpecContext) -> Spec:
    """The teacher's answers that passed the filters, with their provenance. The others are set aside with a reason."""
    settings = at.project.settings
    answers = at.artifact("teacher_answers")
    questions = read_jsonl(at.project.inside(settings.evaluation.general_questions))
    inputs = {"teacher_answers": answers.reference, "conversations": at.passed("conversations").reference}
    teacher = settings.teacher
    config = {
        "teacher": {
            "model": teacher.model,
            "fingerprint": _teacher_fingerprint(answers, teacher),
            "terms": teacher.terms,  # changes no row, but an audit shows the terms under which rows were made
        },
        "general_questions": [str(row.get("query", "")) for row in questions],
    }
    return Spec("distilled", inputs, config)


def _teacher_fingerprint(answers: Artifact, teacher: TeacherSettings) -> str:
    """For a local model, the hash of its content; for an endpoint, of its address and the requested model name."""
    base = answers.inputs.get("base_model")
    return base[1] if base else teacher_sha256(teacher)


def _build_distilled(making: BuildContext) -> dict[str, Any]:
    config = making.spec.config
    return distill(
        making.inputs["teacher_answers"],
        making.inputs["conversations"],
        making.out,
        teacher=config["teacher"],
        general_questions=config["general_questions"],
    )


def _show_answers(artifact: Artifact) -> dict[str, Any]:
    rows = pq.read_table(artifact.path / "answers.parquet").slice(0, SHOWN_ANSWERS).to_pylist()
    shown = [
        {
            "message": row["prompt_messages"][-1]["content"],
            "answer": row["answer"] or row["failure"],
            "finish": row["finish_reason"],
        }
        for row in rows
    ]
    return {
        **artifact.summary,
        "answers_shown": table(shown),
        "dagster/column_schema": column_schema([(name, *content) for name, content in ANSWERS.items()]),
        "dagster/column_lineage": column_lineage(answers_lineage()),
    }


def _show_distilled(artifact: Artifact) -> dict[str, Any]:
    summary = artifact.summary
    shown = {key: summary[key] for key in ("answers", "kept", "set_aside", "reasons", "thresholds", "length_range")}
    return {
        **shown,
        "samples": summary["samples"],
        "dagster/row_count": summary["kept"],
        "dagster/column_schema": column_schema(describe_columns("conversations")),
        "dagster/column_lineage": column_lineage(distilled_lineage()),
    }
