"""The teacher: answers to the unlabelled prompts, by a model on this machine or by an endpoint."""

import json
from typing import Any

from ft_pipeline.distillation import endpoint_teacher, vllm_teacher
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import template_sha256
from ft_pipeline.settings.project import TeacherSettings


def run(job: Job) -> dict[str, Any]:
    """Answer every row of `unlabelled` under the teacher's system prompt and fixed examples of the train split.

    Inputs: unlabelled, conversations; base_model (the teacher's) where there is no endpoint. Config: `teacher`
    (TeacherSettings; terms are not looked at); `handling` holds those that change no answer: `endpoint`, `engine`.
    Files: answers.parquet, teacher.json (system prompt, examples, hashes, sampling).
    A run that was killed is asked only for what is missing. The summary is that of local.py, vllm.py or client.py.
    """
    teacher = teacher_of(job)
    prompter = TeacherPrompt.of(teacher, job.inputs["conversations"])
    if teacher.endpoint is not None:
        summary = endpoint_teacher.answer_all(job, prompter)
    elif (engine := vllm_teacher.wanted(teacher.engine, job.device)) is not None:
        summary = vllm_teacher.answer_all(job, prompter, engine)
    else:
        from ft_pipeline.distillation import local  # torch, which an endpoint needs none of

        summary = local.answer_all(job, prompter)
    document = json.dumps(_provenance(job, prompter), ensure_ascii=False, indent=2)
    (job.out / "teacher.json").write_text(document, encoding="utf-8")
    return summary


def teacher_of(job: Job) -> TeacherSettings:
    """The settings that the job's config and handling hold between them."""
    settings = dict(job.config["teacher"])
    settings.setdefault("engine", job.handling.get("engine", "auto"))
    if settings.get("endpoint"):
        settings["endpoint"] = job.handling.get("endpoint", {}) | settings["endpoint"]
    return TeacherSettings.model_validate(settings)


def _provenance(job: Job, prompter: TeacherPrompt) -> dict[str, Any]:
    """What every answer of this run has in common. Nobody sees the chat template of an endpoint's model: there, the
    template is what we put around each prompt."""
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
