"""What the teacher answered to the prompts in `unlabelled`. Empty, if the project has none.

**Look here** to read the answers, and to see what they cost. A teacher may be a model on this machine or a server.

**If it fails:** the server refused, or too many requests failed. Answers that were paid for are kept: run again to
request only the missing ones (docs/distillation.md).
"""

from dataclasses import replace
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import PlainSerializer

from ft_pipeline.distillation.answer_table import TEACHER_ANSWERS, count_prompts
from ft_pipeline.distillation.teacher_facts import answer_nothing
from ft_pipeline.job import Job
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.page import Columns, Lineage, Page, Table
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.settings.yaml_file import later
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.steps.base_model import base_model_spec, has_teacher
from ft_pipeline.steps.shared.column_lineage import answers_lineage
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

SHOWN_ANSWERS = 20
"""Number of answers on the asset's page."""
NOT_SHOWN = {"checks", "seconds", "resumed"}
"""What the summary of the answers has for other readers."""


class Config(StepConfig):
    """What the answers depend on, besides the prompts and a teacher on this machine."""

    teacher: Annotated[TeacherSettings, PlainSerializer(lambda each: each.config_and_handling()[0], return_type=dict)]
    ignored_while_decoding: list[str] = later(default_factory=list)
    """Keys of the model's own generation config that would change its answers."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of the teacher's answers."""
    teacher, unlabelled = context.project.settings.teacher, context.checked_artifact("unlabelled")
    inputs = {"unlabelled": unlabelled, "conversations": context.checked_artifact("conversations")}
    ignored: dict[str, list[str]] = {}
    libraries: tuple[str, ...] = ()
    _, handling = teacher.config_and_handling()
    if teacher.endpoint is None:
        handling["prompts"] = count_prompts(unlabelled.path)
        if has_teacher(context):
            model = base_model_spec(context, teacher.model, teacher.revision, teacher.chat_template_kwargs)
            inputs["base_model"] = context.built_artifact(model)
            ignored, libraries = ignored_while_decoding(inputs["base_model"].path), ("torch", "transformers")
    spec = spec_of("teacher_answers", inputs, Config(teacher=teacher, **ignored), libraries)
    return replace(spec, seed=teacher.seed, handling=handling)


def run(job: Job) -> dict[str, Any]:
    """Let the teacher answer each unlabelled prompt (distillation/teacher.py)."""
    from ft_pipeline.distillation import teacher

    return teacher.run(job)


def build(build: BuildContext) -> dict[str, Any]:
    """Write that no prompt was answered."""
    return answer_nothing(build.spec.config["teacher"], build.out)


def builds_here(spec: Spec) -> bool:
    """Whether there are no prompts for the teacher on this machine."""
    return spec.handling.get("prompts") == 0


def page(artifact: Artifact) -> Page:
    """What the teacher answered."""
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


CHECKS = (MATCHES_SCHEMA,)

STEP = step_of(
    __name__,
    stage="distillation",
    deps=("unlabelled", "conversations"),
    kinds=frozenset({"pytorch", "huggingface"}),
    code_version="3",
    gpu=lambda project: project.settings.teacher.endpoint is None,
)
