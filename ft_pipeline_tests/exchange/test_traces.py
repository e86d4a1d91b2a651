"""Logs of an application become a project, or one for each of its workloads."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.cli.common import REFUSED
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline_tests.exchange.helpers import materialize
from ft_pipeline_tests.tables.helpers import logged_call, validate, write_jsonl

ROWS = [
    logged_call("Where is order 7?", "It was shipped.", id="a", workload_id="Help desk"),
    logged_call("Sort: the kettle leaks", "complaint", id="b", workload_id="triage"),
    {"feedback": {"id": "b", "correction": "warranty"}},
    logged_call("Where is order 8?", "At the carrier.", id="c", workload_id="Help desk"),
    logged_call("Hello there", "Good day!", id="d"),
]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["import", "traces", *arguments])
    if isinstance(result.exception, UserError):
        return REFUSED, str(result.exception)
    return result.exit_code, result.output


def raw_rows(project: Path) -> list[dict]:
    (file,) = (project / "data" / "raw" / "traces").glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_workload_becomes_a_project_with_its_feedback(tmp_path) -> None:
    code, output = run(str(write_jsonl(tmp_path / "log.jsonl", ROWS)), "--into", str(tmp_path / "out"))
    assert code == 0, output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"help-desk", "triage", "other"}
    assert raw_rows(tmp_path / "out" / "triage") == [ROWS[1], ROWS[2]]
    assert raw_rows(tmp_path / "out" / "help-desk") == [ROWS[0], ROWS[3]]
    for name in ("help-desk", "triage", "other"):
        project = Project(tmp_path / "out" / name)
        assert project.experiment_names() == ["sft"] and project.settings.name == name
        materialize(project.root, "raw_traces", "traces")


def test_a_log_of_one_workload_is_copied_as_it_is(tmp_path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in (ROWS[0], ROWS[3])).encode()))
    code, output = run(str(path), "--into", str(tmp_path / "out"))
    assert code == 0, output
    copy = tmp_path / "out" / "data" / "raw" / "traces" / "log.jsonl.gz"
    assert copy.read_bytes() == path.read_bytes() and validate(copy, "traces")["accepted"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"run_type": "llm", "inputs": {}}\n', "an export of LangSmith"),
        ('{"instruction": "a", "output": "b"}\n', "There is no call of a model"),
        ("", "no rows"),
    ],
)
def test_a_file_that_is_no_log_is_refused_and_nothing_is_written(tmp_path, content, message) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content)
    code, output = run(str(path), "--into", str(tmp_path / "out"))
    assert code == REFUSED and message in output and not (tmp_path / "out").exists()
    code, output = run(str(tmp_path / "none.jsonl"), "--into", str(tmp_path / "out"))
    assert code == REFUSED and "There is no file" in output


def test_no_project_is_written_if_one_of_the_folders_is_taken(tmp_path) -> None:
    (tmp_path / "out" / "triage").mkdir(parents=True)
    (tmp_path / "out" / "triage" / "notes.txt").write_text("mine")
    code, output = run(str(write_jsonl(tmp_path / "log.jsonl", ROWS)), "--into", str(tmp_path / "out"))
    assert code == REFUSED and "triage is not empty" in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["triage"]
