"""The worker for `teacher_answers`: a teacher on this machine or at an endpoint answers the unlabelled prompts."""

from typing import Any

from ft_pipeline.distillation import endpoint_teacher, vllm_teacher
from ft_pipeline.distillation.teacher_facts import write_facts
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import template_sha256
from ft_pipeline.settings.teacher import TeacherSettings


def run(job: Job) -> dict[str, Any]:
    """Let the teacher answer every row of `unlabelled`, given its system prompt and fixed examples of the train split.

    Inputs: unlabelled, conversations, and base_model (the teacher's) if there is no endpoint. Config: `teacher`
    (TeacherSettings; `terms` is not used). `handling` has the settings that change no answer: `endpoint`, `engine`.
    Files: answers.parquet, teacher.json (system prompt, examples, hashes, sampling).
    If the worker was killed, the next run requests only the missing answers. Returns the summary of local_teacher.py,
    vllm_teacher.py or endpoint_teacher.py.
    """
    teacher = teacher_settings(job)
    teacher_prompt = TeacherPrompt.of(teacher, job.inputs["conversations"])
    if teacher.endpoint is not None:
        summary = endpoint_teacher.answer_all(job, teacher_prompt)
    elif (engine := vllm_teacher.choose_engine(teacher.engine, job.device)) is not None:
        summary = vllm_teacher.answer_all(job, teacher_prompt, engine)
    else:
        from ft_pipeline.distillation import local_teacher  # imports torch, which an endpoint does not need

        summary = local_teacher.answer_all(job, teacher_prompt)
    # The chat template of an endpoint's model is not visible.
    template = teacher_prompt.prompt_sha256 if teacher.endpoint else template_sha256(job.inputs["base_model"])
    write_facts(teacher_prompt, template, job.out)
    return summary


def teacher_settings(job: Job) -> TeacherSettings:
    """Return the teacher's settings, merged from the job's config and handling."""
    settings = dict(job.config["teacher"])
    settings.setdefault("engine", job.handling.get("engine", "auto"))
    if settings.get("endpoint"):
        settings["endpoint"] = job.handling.get("endpoint", {}) | settings["endpoint"]
    return TeacherSettings.model_validate(settings)
