"""grpo after a finished sft, by `ft run`: rewards of a function of the project, in the comparison and in the audit."""

import json
from pathlib import Path

import pytest
import yaml

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, current, ft, ft_json

pytestmark = pytest.mark.long

CHECKS = 'def letters(answer):\n    return sum(letter in "etaoin " for letter in answer) / max(1, len(answer))\n'


@pytest.fixture(scope="module")
def root(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copy_of(finished, tmp_path_factory.mktemp("rewards"))
    (root / "checks.py").write_text(CHECKS, encoding="utf-8")
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["evaluation"]["metrics"] = {"letters": {"function": "checks.letters"}}
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    qlora = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    keys = {
        "objective": "grpo",
        "start_from": "qlora",
        "grpo": {"rewards": {"letters": 1}, "max_new_tokens": 8, "num_generations": 4},
        "training": {**qlora["training"], "max_steps": 4, "eval_rows": 8, "per_device_train_batch_size": 2},
    }
    (root / "experiments" / "grpo.yaml").write_text(yaml.safe_dump({**qlora, **keys}), encoding="utf-8")
    done = ft(root, "run", "--experiment", "grpo")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def test_the_adapter_of_sft_is_continued_and_its_rewards_are_recorded(root: Path) -> None:
    adapter, store = current(root, "adapter", "grpo"), ArtifactStore(root / "data" / "store")
    assert store.require(*adapter.inputs["start"]).spec["config"]["experiment"]["objective"] == "sft"
    assert adapter.spec["config"]["rewards"]["custom_metrics"]["letters"]["source"] == CHECKS
    lines = [json.loads(line) for line in (adapter.path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4 and all(0 <= step["reward/letters"] <= 1 for step in steps)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert 0 <= adapter.summary["first_eval_reward"] <= 1


def test_the_rewarded_model_is_compared_and_its_reward_is_told(root: Path) -> None:
    assert {"grpo/adapter", "grpo/merged"} <= {row["name"] for row in ft_json(root, "compare")["rows"]}
    reasons = current(root, "recommendation").document("recommendation.json")["reasons"]
    assert any("Held-out reward: " in reason for reason in reasons)


def test_the_store_verifies_and_a_second_run_does_nothing(root: Path) -> None:
    assert ft(root, "audit", "--verify").returncode == 0
    assert "Up to date" in ft(root, "run", "--experiment", "grpo").stdout


def test_a_changed_check_trains_it_again_but_not_its_start(root: Path) -> None:
    (root / "checks.py").write_text(CHECKS.replace("etaoin", "aeiou"), encoding="utf-8")
    plan = ft_json(root, "run", "--experiment", "grpo", "--plan")["plan"]
    stale = {step["asset"] for step in plan if step["runs"]}
    assert "adapter" in stale and "training_data" not in stale
