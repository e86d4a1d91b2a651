"""The walk through a distillation in docs/distillation.md, word for word: its commands, in a copy of the checkout.

The teacher is the embedded model behind `transformers serve`. Few questions, test rows and steps take less time.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.scaffold import example_folder
from ft_pipeline_tests.end_to_end.project import change_yaml, current, cut, ft_json
from ft_pipeline_tests.end_to_end.serving import free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.story]

PORT = "8000"
"""The port in the page; the test replaces it with a free one."""
SECONDS = 1800
TRIES = "tries: 12"
"""Of a new project's search of prompts; the test's tries less."""
EXPERIMENT, SHORT = "technique: qlora", "technique: qlora\ntraining: {max_steps: 4}"
"""The test's trainings are short."""
MESSAGES, FEW = "head -n 20", 10
"""How many messages the teacher answers; the test's answers fewer."""


def commands(heading: str) -> list[str]:
    """The console blocks of a section."""
    text = (example_folder() / "docs" / "distillation.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```console\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def bash(block: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in {"FT_PROJECT", "DAGSTER_HOME"}}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def check_the_answers(root: Path) -> None:
    """Every prompt has an answer of the server, and those that end within the limit are whole words."""
    answers = current(root, "teacher_answers")
    rows = pq.read_table(answers.path / "answers.parquet").to_pylist()
    assert len(rows) == FEW == answers.summary["spent"]["paid_requests"]
    assert all(row["request_id"] and row["prompt_tokens"] > 40 and row["answer_tokens"] > 0 for row in rows)
    stopped = [row for row in rows if row["finish_reason"] == "stop"]
    assert stopped and all(len(row["answer"].split()) >= 3 and "<|" not in row["answer"] for row in stopped)


def test_the_distillation_commands_work(tmp_path: Path) -> None:
    checkout = tmp_path / "ft_pipeline"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "data").symlink_to(example_folder() / "data")
    port = free_port()
    blocks = [block.replace(PORT, str(port)) for block in commands("From an empty folder to a comparison")]
    assert blocks[2].count(EXPERIMENT) == 2
    blocks[2] = blocks[2].replace(EXPERIMENT, SHORT)
    prepare, serve, distill, read = blocks
    assert MESSAGES in prepare
    bash(prepare.replace(MESSAGES, f"head -n {FEW}"), checkout)
    root = tmp_path / "distill"
    settings = root / "project.yaml"
    assert TRIES in settings.read_text(encoding="utf-8")
    settings.write_text(settings.read_text(encoding="utf-8").replace(TRIES, "tries: 1"), encoding="utf-8")
    change_yaml(settings, evaluation={"max_test_rows": 6})
    for path in (root / "data" / "general").glob("*.jsonl"):
        cut(path, 4)
    with running(["bash", "-c", f"exec {serve}"], port, checkout):
        bash(distill, checkout)
    shown = bash(read, checkout)

    check_the_answers(root)
    ((kept,),) = ft_json(root, "sql", "select count(*) from distilled")["rows"]
    ((aside,),) = ft_json(root, "sql", "select count(*) from distilled_set_aside")["rows"]
    assert kept + aside == FEW
    assert kept > 0 and f"127.0.0.1:{port}" in shown
    rows = {row["name"]: row for row in ft_json(root, "compare")["rows"]}
    assert {"with_teacher/merged", "without_teacher/merged", "base", "teacher"} <= set(rows)
    assert rows["teacher"]["kind"] == "teacher"
    assert "chrf" in rows["teacher"]["scores"] and "loss" not in rows["teacher"]["scores"]
