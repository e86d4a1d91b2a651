"""`ft sweep` of pairs and of rewards after an sft, of a training whose worker is killed, and the rows of its trials."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import environment, ft, ft_json, log_of, small_project, workers

pytestmark = [pytest.mark.slow, pytest.mark.long]
RATES = ("--over", "training.learning_rate=1e-4..3e-2")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"start_from": "qlora", "dpo": {"loss_type": "ipo"}},
    "grpo": {"start_from": "qlora", "grpo": {"rewards": {"chrf": 1}, "max_new_tokens": 8, "num_generations": 2}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("search") / "shop", variants=False)
    qlora = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    qlora["training"] |= {"max_steps": 4, "eval_rows": 4, "eval_steps": 2, "per_device_train_batch_size": 2}
    for name, keys in {"qlora": {}, **OBJECTIVES}.items():
        objective = {"objective": name} if keys else {}
        (root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump({**qlora, **objective, **keys}))
    return root


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_is_searched_and_its_lineage_is_complete(root: Path, objective: str) -> None:
    done = ft_json(root, "sweep", objective, *RATES, "--trials", "2")
    assert [trial["state"] for trial in done["trials"]] == ["complete"] * 2, done
    assert done["objective"] == objective and done["chosen"]["trial"] in (1, 2)
    store = ArtifactStore(root / "data" / "store")
    trials = [artifact for artifact in store.all("trial") if artifact.spec["config"]["experiment"] == objective]
    for trial in trials:
        inputs = {name: store.require(*reference) for name, reference in trial.inputs.items()}
        assert inputs.keys() == {"training_data", "base_model", "adapter", "start"}
        assert inputs["adapter"].inputs.get("start") == trial.inputs.get("start")
    if objective == "grpo":
        shown = ft(root, "sweep", objective, *RATES, "--trials", "2")
        best = next(trial for trial in done["trials"] if trial["number"] == done["chosen"]["trial"])
        assert "held-out reward" in shown.stdout and f"{1 - best['loss']:.4f}" in shown.stdout
    assert max(map(len, ft(root, "sweep", objective, *RATES, "--trials", "2", COLUMNS="80").stdout.splitlines())) <= 80


def test_the_shape_of_a_continued_adapter_cannot_vary(root: Path) -> None:
    refused = ft(root, "sweep", "dpo", "--over", "lora.r=4,8", "--trials", "2")
    assert refused.returncode == 2 and "continues the adapter of qlora" in refused.stderr


def test_a_trial_whose_worker_is_killed_has_failed_and_the_search_goes_on(root: Path) -> None:
    arguments = ["sweep", "qlora", "--over", "training.learning_rate=1e-4..1e-2", "--trials", "3"]
    command = [str(Path(sys.executable).parent / "ft"), *arguments]
    process = subprocess.Popen(
        command, cwd=root, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not (running := [one for one in workers(root) if "/drafts/adapter" in str(log_of(one))]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(running[-1].pid, signal.SIGKILL)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    (failed,) = re.findall(r"(try\d) failed", errors)  # try1, or try2 if an earlier test has trained the first
    assert "the worker was killed by SIGKILL" in errors and "Traceback" not in errors
    assert "try3 complete" in errors and "Run again" not in output
    reason = f"adapter [{failed}]: the worker was killed by SIGKILL (usually out of memory).\n"
    assert f"qlora.{failed} failed: {reason}" in output
    document = ft_json(root, *arguments)
    states = {trial["state"] for trial in document["trials"] if trial["name"] != f"qlora.{failed}"}
    assert states == {"complete"} and len(document["trials"]) == 3


def test_no_trial_has_read_a_test_row_and_the_store_is_in_order(root: Path) -> None:
    store = ArtifactStore(root / "data" / "store")
    (conversations,) = store.all("conversations")
    rows = pq.read_table(conversations.path / "rows.parquet", columns=["id", "split"]).to_pylist()
    held_back = {row["id"] for row in rows if row["split"] == "test"}
    used = {reference for trial in store.all("trial") if (reference := trial.inputs["training_data"])}
    assert held_back and used
    for reference in used:
        data = store.require(*reference).path
        assert {path.name for path in data.glob("*.parquet")} == {"train.parquet", "validation.parquet"}
        for path in data.glob("*.parquet"):
            assert not held_back & set(pq.read_table(path, columns=["id"])["id"].to_pylist())
    assert not store.all("scores") and not store.all("prompt_baseline")
    assert "all hashes match the records" in ft(root, "audit", "--verify").stdout
    status = ft_json(root, "status")
    assert status["runs"] == [] and status["failed"] == []
