"""The small examples: all of their rows are read, and they go from files to a verdict of their check.

Of the example `classification`, test_tutorial.py shows the latter.
"""

import json
from pathlib import Path

import pytest

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import make_items
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.project import Project
from ft_pipeline.tables.validate import validate_file
from ft_pipeline_tests.end_to_end.project import change_yaml, cut, ft, ft_json

EXAMPLES = {"classification": "topic", "extraction": "order"}
"""By name, the check that decides."""


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return scaffold.create(tmp_path / request.param, example=False, small_example=request.param)


def rows_files(root: Path) -> list[Path]:
    """Return the files of the training rows and of the test rows."""
    return sorted((root / "data" / "raw" / "alpaca").glob("*.jsonl"))


def read_rows(root: Path) -> list[dict[str, str]]:
    lines = [line for path in rows_files(root) for line in path.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def test_all_rows_are_accepted_and_no_situation_is_in_training_and_in_test(example: Path) -> None:
    groups = []
    for path in rows_files(example):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        account = validate_file(path, "alpaca", data_dir=path.parent).account
        assert (account.accepted, account.quarantined) == (len(rows), 0)
        groups.append({row["group"] for row in rows})
    train, test = groups
    assert not train & test
    assert len(test) >= 80


def test_the_references_go_with_the_checks(example: Path) -> None:
    settings = Project(example).settings.evaluation
    metrics = AnswerMetrics(None, json.loads(json.dumps(resolve_metrics(example, settings.metrics))))
    rows = []
    for number, row in enumerate(read_rows(example)):
        texts = {"user": row["instruction"], "assistant": row["output"]}
        rows.append({"id": str(number), "messages": [{"role": role, "content": text} for role, text in texts.items()]})
    items = make_items(rows)
    metrics.check_references(items, rows)
    name = EXAMPLES[example.name]
    assert settings.metrics[name].decides
    samples = [{"group": item.group, **metrics.score_answer(item, item.reference)} for item in items[:40]]
    means = metrics.means(metrics.complete(samples))
    assert {means[value] for value in metrics.custom_definitions} == {1.0}


def test_an_example_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no example 'extract'\. Choose one of classification, extraction"):
        scaffold.create(tmp_path / "new", example=False, small_example="extract")
    assert not (tmp_path / "new").exists()


@pytest.mark.long
@pytest.mark.story
@pytest.mark.parametrize("example", ["extraction"], indirect=True)
def test_a_shrunken_example_goes_from_files_to_a_verdict_of_its_check(example: Path) -> None:
    """A few steps, questions and test rows: enough to go all the way, not to learn the task."""
    for path in (example / "data" / "general").glob("*.jsonl"):
        cut(path, 4)
    for path in rows_files(example):
        cut(path, 80)  # the first 60 rows have no template that falls to validation
    smaller = {"max_test_rows": 4, "max_new_tokens": 24}
    change_yaml(example / "project.yaml", evaluation=smaller, promotion={"min_test_rows": 2})
    change_yaml(example / "experiments" / "lora.yaml", training={"max_steps": 4})
    done = ft(example, "run", "--experiment", "lora", timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    document = ft_json(example, "compare")
    assert document["primary_metric"] == "order"
    assert document["decided_by"] == "The check evaluation.metrics.order decides."
    assert {entry["row"] for entry in document["field_results"]} == {row["name"] for row in document["rows"]}
    report = next((example / "data" / "store" / "artifacts" / "report").glob("*/*/report.html"))
    assert "What is wrong most often" in report.read_text(encoding="utf-8")
