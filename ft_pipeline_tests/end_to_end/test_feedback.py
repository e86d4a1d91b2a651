"""Thumbs from the file to the comparison: trained, scored, audited, reused, and one of them forgotten."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline_tests.automation.simulated import rows as random_rows
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, current, ft, ft_json
from ft_pipeline_tests.tables.helpers import logged_call, write_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

GOOD, BAD = "Please send your order number.", "No idea, ask somebody else about it."


@pytest.fixture(scope="module")
def root(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with 60 thumbs in a file, 20 in the log of an application, and an experiment that learns them."""
    root = copy_of(finished, tmp_path_factory.mktemp("feedback"))
    questions = [row["instruction"] for row in random_rows(80, 5)]
    thumbs = [
        {"prompt": question, "completion": f"{GOOD if number % 2 else BAD} ({number})", "label": bool(number % 2)}
        for number, question in enumerate(questions[:60])
    ]
    (root / "data" / "raw" / "feedback").mkdir(exist_ok=True)
    write_jsonl(root / "data" / "raw" / "feedback" / "thumbs.jsonl", thumbs)
    logged = [logged_call(question, BAD, id=f"c{number}") for number, question in enumerate(questions[60:])]
    rated = [{"feedback": {"id": f"c{number}", "rating": "down"}} for number in range(len(logged))]
    (root / "data" / "raw" / "traces").mkdir(exist_ok=True)
    write_jsonl(root / "data" / "raw" / "traces" / "log.jsonl", [*logged, *rated])
    experiment = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    experiment |= {"objective": "kto", "start_from": "qlora"}
    (root / "experiments" / "kto.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    done = ft(root, "run", "--experiment", "kto")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def test_thumbs_are_trained_scored_and_audited(root: Path) -> None:
    assert current(root, "feedback").summary["accepted"] == 80
    data, adapter = current(root, "training_data", "kto"), current(root, "adapter", "kto")
    rows = data.summary["audit"]["rows"]
    assert sum(rows.values()) == 80 - len(data.document("audit.json")["left_out"])
    assert rows["up/train"] and rows["down/train"] and "start" in adapter.inputs
    assert {row["name"] for row in ft_json(root, "compare")["rows"]} >= {"base", "kto/adapter", "kto/merged"}
    audited = ft(root, "audit", "--verify")
    assert audited.returncode == 0, audited.stdout[-2000:]


def test_a_second_run_has_nothing_to_do(root: Path) -> None:
    planned = ft_json(root, "run", "--experiment", "kto", "--plan")["plan"]
    assert [step["asset"] for step in planned if step["runs"]] == []


def test_a_forgotten_thumb_is_gone_and_trains_again(root: Path) -> None:
    raw = root / "data" / "raw" / "feedback" / "thumbs.jsonl"
    answer = json.loads(raw.read_text(encoding="utf-8").splitlines()[6])["completion"]
    table = pq.read_table(current(root, "feedback").path / "rows.parquet").to_pylist()
    (row,) = [row for row in table if (row["file"], row["row"]) == ("thumbs.jsonl", 7)]
    assert row["completion"][0]["content"] == answer
    erased = ft_json(root, "erase", "data/raw/feedback/thumbs.jsonl", "7", "--reason", "request 4711")
    assert {artifact["kind"] for artifact in erased["artifacts"]} >= {"feedback"}
    assert answer not in raw.read_text(encoding="utf-8")
    planned = {
        step["asset"]: step["reason"]
        for step in ft_json(root, "run", "--experiment", "kto", "--plan")["plan"]
        if step["runs"]
    }
    assert planned["feedback"] == "one of its rows was erased"
    done = ft(root, "run", "--experiment", "kto")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ids = set(pq.read_table(current(root, "training_data", "kto").path / "train.parquet")["id"].to_pylist())
    assert row["id"] not in ids and current(root, "feedback").summary["accepted"] == 79
    assert ft(root, "audit", "--verify").returncode == 0
