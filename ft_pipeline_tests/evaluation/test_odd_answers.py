"""Answers that nothing can be learned from: each is told in a sentence, by the workers and by `ft validate`."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.evaluation.rivals import label_model, score, word_model
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation
from ft_pipeline_tests.tables.helpers import write_jsonl

THINGS = ("parcel", "refund", "login", "kettle", "lamp", "chair", "rug")
SPLITS = {"train": 40, "validation": 8, "test": 8}


def written(folder: Path, answer: Callable[[int], str], train: int = SPLITS["train"]) -> Path:
    """A folder with conversations. answer: by the number of the row."""
    folder.mkdir()
    rows, number = [], 0
    for split, count in (SPLITS | {"train": train}).items():
        for _ in range(count):
            question = f"Where is the {THINGS[number % 7]} of my order {number}?"
            rows.append(conversation(split, question, answer(number)))
            number += 1
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


ODD: dict[str, tuple[Callable[[int], str], int, str]] = {
    "all equal": (lambda number: "It is on its way.", 40, "all training rows have the same answer"),
    "one label": (lambda number: "delivery", 40, "all training rows have the same answer"),
    "one label in the only field": (
        lambda number: json.dumps({"topic": "delivery"}),
        40,
        "no field of the JSON answers has a few values",
    ),
    "10,000 labels": (
        lambda number: f"label {number % 10_000}",
        20_000,
        "the training rows have 10,000 different answers, and at most 200 are labels",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_the_word_model_stays_out_with_its_reason(name: str, make_job: JobMaker, tmp_path: Path) -> None:
    answer, train, reason = ODD[name]
    rows = {"conversations": written(tmp_path / "rows", answer, train)}
    job = make_job("word_model", "model", rows, seed=0)
    assert word_model.run(job) == {"left_out": reason, "labels": {}}
    assert job.report.lines == [f"word_model is left out: {reason}"]  # type: ignore[attr-defined]
    assert json.loads((job.out / word_model.TEXTS).read_text(encoding="utf-8")) == {"left_out": reason}


@pytest.mark.parametrize("name", ["all equal", "one label in the only field"])
def test_the_other_rivals_answer_as_ever(name: str, make_job: JobMaker, tmp_path: Path) -> None:
    rows = {"conversations": written(tmp_path / "rows", ODD[name][0])}
    summary = score.run(make_job("rival_scores", "scores", rows, rivals=["majority", "nearest_answer"]))
    assert "left_out" not in summary
    right = {row["name"]: row["scores"]["exact_match"]["value"] for row in summary["rows"]}
    assert right == {"majority": 1.0, "nearest_answer": 1.0}


def test_a_regression_that_does_not_converge_is_told_by_its_worker(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_model, "MAX_STEPS", 1)
    rows = {"conversations": written(tmp_path / "rows", lambda number: THINGS[number % 7])}
    job = make_job("word_model", "model", rows, seed=0)
    assert word_model.run(job)["left_out"] == "scikit-learn did not converge in 1 steps"


VALIDATED = {
    "all empty": (
        [{"instruction": f"Where is order {number}?", "output": " "} for number in range(4)],
        "empty_output",
    ),
    "a group that is null": (
        [
            {"instruction": f"Where is order {number}?", "output": f"Reply {number}.", "group": group}
            for number, group in enumerate(["ann", None, "ben", None])
        ],
        "2 row(s) have no value in the column 'group', which names groups: each stands alone",
    ),
}


@pytest.mark.parametrize("name", VALIDATED)
def test_ft_validate_tells_it_in_a_sentence(name: str, tmp_path: Path) -> None:
    rows, told = VALIDATED[name]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    result = CliRunner().invoke(app, ["validate", str(file), "--format", "alpaca"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert told in " ".join(result.output.split()) and "Traceback" not in result.output
