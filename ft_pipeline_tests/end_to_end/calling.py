"""A small project whose tiny model learns to call a tool: chat rows with tools, all weights trained, in a minute."""

import itertools
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline import scaffold
from ft_pipeline_tests.tiny import tiny_model

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "find_parcel",
            "description": "Find it",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
ARGUMENTS = {"city": "Köln", "days": 3}
THANKS = "You are welcome."
_NAMES = ("Ann", "Bob", "Carla", "Dmitri", "Eve", "Farid", "Greta", "Hugo", "Ines", "Jonas")
_THINGS = ("red lamp", "old chair", "garden table", "blue carpet", "silver kettle", "wooden shelf")
_WORDS = ("today", "at noon", "on Friday", "next week")


def rows() -> list[dict[str, Any]]:
    """Questions that are answered with a call, and thanks that are not."""
    call = {"id": "call_1", "type": "function", "function": {"name": "find_parcel", "arguments": json.dumps(ARGUMENTS)}}
    calling: Any = {"role": "assistant", "content": None, "tool_calls": [call]}
    questions = [f"{name} waits for the {thing}. Where is it?" for name, thing in itertools.product(_NAMES, _THINGS)]
    thanks = [f"Thanks! {name} has it {word}." for name, word in itertools.product(_NAMES, _WORDS)]
    answers: list[tuple[str, Any]] = [(question, calling) for question in questions]
    answers += [(text, {"role": "assistant", "content": THANKS}) for text in thanks]
    return [{"messages": [{"role": "user", "content": text}, answer], "tools": TOOLS} for text, answer in answers]


def calling_project(root: Path) -> Path:
    """Write the project folder `root`."""
    scaffold.create(root, example=False)
    raw = root / "data" / "raw" / "chat"
    raw.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())
    (raw / "provider.jsonl").write_text(lines, encoding="utf-8")
    model = tiny_model(root / "models" / "tiny", positions=1024)
    template = (files("trl") / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings.setdefault("prompting", {})["variants"] = {}
    settings.setdefault("evaluation", {}).update(max_new_tokens=120, max_test_rows=12)
    settings.setdefault("teacher", {}).update(model=str(model), few_shot=0)  # the default's template has no tools
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    training = {
        "num_train_epochs": 32,
        "max_length": 1024,
        "learning_rate": 3.0e-3,
        "per_device_train_batch_size": 8,
        "eval_steps": 200,
    }
    experiment = {"base_model": str(model), "technique": "full", "training": training}
    (root / "experiments" / "calls.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return root
