"""What all answers of a teacher have in common (teacher.json), and the files of one without prompts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.distillation.answer_table import write_answers
from ft_pipeline.distillation.endpoint_teacher import host_of
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.settings.teacher import TeacherSettings


def answer_nothing(config: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the files of a teacher on this machine that has no prompts, without loading it. Return the summary.

    config: TeacherSettings, as in a spec.
    """
    checks = write_answers([], out)
    write_facts(TeacherPrompt(TeacherSettings.model_validate(config), []), None, out)
    return {"prompts": 0, "wanted": 0, "answered": 0, "seconds": 0.0, "answer_tokens": 0, "checks": checks}


def write_facts(teacher_prompt: TeacherPrompt, template: str | None, out: Path) -> None:
    """Write teacher.json. template: the hash of the chat template; for an endpoint, of the text around each prompt."""
    endpoint = teacher_prompt.teacher.endpoint
    facts = {
        "endpoint_host": host_of(endpoint) if endpoint else None,
        "system_prompt": teacher_prompt.teacher.system_prompt,
        "examples": teacher_prompt.examples,
        "prompt_sha256": teacher_prompt.prompt_sha256,
        "template_sha256": template,
        "sampling": teacher_prompt.sampling,
    }
    (out / "teacher.json").write_text(json.dumps(facts, ensure_ascii=False, indent=2), encoding="utf-8")
