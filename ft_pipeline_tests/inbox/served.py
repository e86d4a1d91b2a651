"""A project, and the log of a served model with calls and feedback."""

import json
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline import scaffold
from ft_pipeline.project import Project

NOON = 1795780800
QUESTION, WRONG, RIGHT = "Can I return a lamp?", "No, lamps are final.", "Yes, within 30 days."


def new_project(root: Path, log: str | None = "traffic") -> Project:
    """A project without rows whose setting names a log."""
    scaffold.create(root, example=False)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    if log is not None:
        settings["inbox"] = {"log": log}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Project(root)


def call(identity: str, question: str = QUESTION, answer: str = WRONG, **more: Any) -> dict[str, Any]:
    """A call as `ft serve --log` writes it. earlier: turns before the question."""
    earlier = more.pop("earlier", [])
    message = {"role": "assistant", "content": answer}
    return {
        "id": identity,
        "timestamp": NOON,
        "workload_id": "shop",
        "client_id": "ft-serve",
        **more,
        "request": {"model": "champion", "messages": [*earlier, {"role": "user", "content": question}]},
        "response": {"id": identity, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
    }


def said(identity: str, after: int = 0, **feedback: Any) -> dict[str, Any]:
    """Feedback, some seconds after noon."""
    return {"feedback": {"id": identity, "timestamp": NOON + after, **feedback}}


def write(path: Path, *lines: dict[str, Any] | str) -> None:
    """Append lines to a file of the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{text}\n" for text in texts))


def accepted_lines(project: Project) -> list[dict[str, Any]]:
    """The lines of all files of accepted calls."""
    files = sorted(project.raw_folder("traces").glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
