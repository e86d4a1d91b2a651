"""The tutorial, word for word: its commands in order, from `ft init` to a correction of the served champion.

Its project is made smaller before it runs, so that it takes minutes; what wins is the same.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ft_pipeline.scaffold import example_folder
from ft_pipeline_tests.end_to_end.project import change_yaml, cut, ft_json
from ft_pipeline_tests.end_to_end.serving import free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.story]

PAGE = example_folder() / "docs" / "tutorial.md"
PORT = "8000"
"""The port in the tutorial; the test replaces it with a free one."""
TRIES = "tries: 24"
"""What the tutorial's search may try; the test's tries less."""
SECONDS = 3000
BLOCK = re.compile(r"^```(console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAME_EVERYWHERE = ("Make a project", "Look at the rows")
"""Sections whose outputs depend on no machine."""


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each section after the installation, as (language, text)."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    found = {part.partition("\n")[0]: BLOCK.findall(part) for part in parts}
    found.pop("Install")
    return found


def bash(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=shell_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    print(script, done.stdout, done.stderr, sep="\n", flush=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def make_smaller(project: Path) -> None:
    """A few steps, questions and test rows: enough to go all the way, not to learn the task."""
    cut(project / "data" / "general" / "questions.jsonl", 4)
    cut(project / "data" / "general" / "texts.jsonl", 4)
    change_yaml(project / "project.yaml", evaluation={"max_test_rows": 60})
    change_yaml(project / "experiments" / "lora.yaml", training={"max_steps": 4})


def shell_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"FT_PROJECT", "DAGSTER_HOME"}}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}


def test_the_tutorials_commands_lead_to_a_correction_of_the_champion(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    project = tmp_path / "topics"
    port = free_port()
    serve, shown, replies = "", "", []
    for heading, blocks in sections().items():
        folder = project if project.exists() else tmp_path / "clone"
        if heading == "Search a prompt":
            make_smaller(project)
        for language, text in blocks:
            if language == "text":
                if heading in SAME_EVERYWHERE:
                    assert text in shown, f"{heading}: the tutorial shows another output"
            elif "ft serve " in text:  # in the second terminal; the lines before it are those of a new shell
                *others, command = text.splitlines()
                assert others == [". .venv/bin/activate", "cd ../topics"]
                serve = f"exec {command} --port {port}"
            elif PORT in text:
                with running(
                    ["bash", "-c", f"export PATH={Path(sys.executable).parent}:$PATH; unset FT_PROJECT; {serve}"],
                    port,
                    folder,
                ):
                    replies.append(bash(text.replace(PORT, str(port)), folder))
            else:
                shown = bash(text.replace(TRIES, "tries: 2"), folder)
                folder = project
    assert json.loads(replies[0])["choices"][0]["message"]["content"] == "damaged"
    [accepted] = (project / "data" / "raw" / "traces").glob("accepted-*.jsonl")
    assert '"refund"' in accepted.read_text(encoding="utf-8") and "traces" in shown
    assert {"README.md", "model.safetensors"} <= {path.name for path in (tmp_path / "topics-model").iterdir()}
    assert "word_model" in bash("ft champion", project)
    document = ft_json(project, "compare")
    assert document["decided_by"] == "The check evaluation.metrics.topic decides."
    assert {entry["row"] for entry in document["confusions"]} >= {"word_model", "few_shot", "majority"}
    assert "What is wrong most often" in (project / "topics.html").read_text(encoding="utf-8")
