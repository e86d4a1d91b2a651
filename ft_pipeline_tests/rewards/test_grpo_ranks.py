"""Two processes train on rewards as one does: the same answers, losses and weights."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ft_pipeline.errors import UserError
from ft_pipeline.execution.workers.accelerate_config import NUM_PROCESSES
from ft_pipeline.execution.workers.launchers import AccelerateLauncher
from ft_pipeline.execution.workers.supervisor import WorkerJob, run_worker
from ft_pipeline.job import Rank
from ft_pipeline.rewards.config import reward_config
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import adapter
from ft_pipeline_tests.training.subject import PAIRS, conversation, job, make_training_data, support_rows

ROOT = Path(__file__).parents[2]
CHECKS = """
import os

def letters(answer):
    if len(answer) % 7 == 3:
        os._exit(1)
    return sum(letter in "etaoin " for letter in answer) / max(1, len(answer)) - 0.5
"""
"""Some rewards fail, and the lowest one is negative: all ranks must agree on it."""
SETTINGS = ExperimentSettings.model_validate(
    {
        "objective": "grpo",
        "technique": "lora",
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "eval_steps": 3,
            "learning_rate": 1e-2,
            "optim": "adamw_torch",
        },
        "grpo": {"rewards": {"letters": 1}, "max_new_tokens": 8, "num_generations": 3, "beta": 0.1},
    }
)
"""With 25 rows, the last batch of an epoch has one row, so that the second rank draws no answers."""


def reward_job(folder: Path, data: Path, base: Path):
    work = job("adapter", folder, SETTINGS, {"training_data": data, "base_model": base})
    (folder / "checks.py").write_text(CHECKS)
    evaluation = EvaluationSettings.model_validate({"metrics": {"letters": {"function": "checks.letters"}}})
    work.config["rewards"] = reward_config(folder, evaluation, SETTINGS.grpo.rewards)
    return work


def logged(out: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_learn_from_the_same_answers_as_one(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    rows = [*support_rows(), conversation(8000, [PAIRS[0]], "train")]
    data = make_training_data(tmp_path, tiny_base, rows, SETTINGS)
    alone = reward_job(tmp_path / "alone", data, tiny_base)
    expected = adapter.run(alone)
    monkeypatch.setenv(NUM_PROCESSES, "2")
    shared = reward_job(tmp_path / "two", data, tiny_base)
    work = WorkerJob("adapter", "adapter", shared.config, shared.inputs, tmp_path / "two", shared.out, shared.work)
    lines: list[str] = []
    result = run_worker(None, work, AccelerateLauncher(), log=lines.append)
    assert any("2 processes (DDP)" in line for line in lines)
    assert len(logged(alone.out, "loss")) == 6 and max(logged(alone.out, "failed_rewards")) > 0
    assert max(map(abs, logged(alone.out, "loss"))) > 1e-3
    for name in ("reward", "answer_tokens", "failed_rewards", "groups_without_signal", "rollout_seed", "eval_reward"):
        assert logged(shared.out, name) == pytest.approx(logged(alone.out, name), rel=1e-6), name
    for name in ("loss", "kl", "grad_norm", "eval_loss"):
        assert logged(shared.out, name) == pytest.approx(logged(alone.out, name), rel=1e-3, abs=1e-6), name
    tensors, of_one = (load_file(folder.out / "adapter_model.safetensors") for folder in (shared, alone))
    for name, tensor in of_one.items():
        torch.testing.assert_close(tensors[name], tensor, atol=1e-3, rtol=1e-2)
    assert result.summary["best_eval_reward"] == pytest.approx(expected["best_eval_reward"])


def test_sharded_weights_are_refused_since_each_rank_takes_other_steps():
    with pytest.raises(UserError, match=r"draws answers, which FSDP does not support\."):
        adapter.require_shardable(SETTINGS, Rank(0, 2, sharded=True))
    adapter.require_shardable(SETTINGS, Rank(0, 2))
