"""Worker of the teacher: answers to the unlabelled prompts, from a model on this machine or from an endpoint."""

import json
from typing import Any

from ft_pipeline.distillation import endpoint_teacher, vllm_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import template_sha256
from ft_pipeline.settings.teacher import TeacherSettings


def run(job: Job) -> dict[str, Any]:
    """Answer every row of `unlabelled` with the teacher's system prompt and fixed examples of the train split.

    Inputs: unlabelled, conversations, and base_model (the teacher's) if there is no endpoint. Config: `teacher`
    (TeacherSettings; `terms` is not used). `handling` has the settings that change no answer: `endpoint`, `engine`.
    Files: answers.parquet, teacher.json (system prompt, examples, hashes, sampling).
    After a kill, only missing answers are requested. The summary is that of local_teacher.py, vllm_teacher.py or
    endpoint_teacher.py.
    """
    teacher = teacher_of(job)
    prompter = TeacherPrompt.of(teacher, job.inputs["conversations"])
    if teacher.endpoint is not None:
        summary = endpoint_teacher.answer_all(job, prompter)
    elif (engine := vllm_teacher.wanted(teacher.engine, job.device)) is not None:
        summary = vllm_teacher.answer_all(job, prompter, engine)
    else:
        from ft_pipeline.distillation import local_teacher  # imports torch, which an endpoint does not need

        summary = local_teacher.answer_all(job, prompter)
    document = json.dumps(_provenance(job, prompter), ensure_ascii=False, indent=2)
    (job.out / "teacher.json").write_text(document, encoding="utf-8")
    return summary


def teacher_of(job: Job) -> TeacherSettings:
    """The settings from the job's config and handling together."""
    settings = dict(job.config["teacher"])
    settings.setdefault("engine", job.handling.get("engine", "auto"))
    if settings.get("endpoint"):
        settings["endpoint"] = job.handling.get("endpoint", {}) | settings["endpoint"]
    return TeacherSettings.model_validate(settings)


def _provenance(job: Job, prompter: TeacherPrompt) -> dict[str, Any]:
    """What all answers of this run have in common.

    The chat template of an endpoint's model is not visible. There, the template is the text around each prompt.
    """
    endpoint = prompter.teacher.endpoint
    template = prompter.prompt_sha256 if endpoint else template_sha256(job.inputs["base_model"])
    return {
        "endpoint_host": endpoint_teacher.host_of(endpoint) if endpoint else None,
        "system_prompt": prompter.teacher.system_prompt,
        "examples": prompter.examples,
        "prompt_sha256": prompter.prompt_sha256,
        "template_sha256": template,
        "sampling": prompter.sampling,
    }
