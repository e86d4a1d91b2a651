"""The memory estimate of one of several ranks: copies of everything with DDP, shares with FSDP2."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.job import Rank
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps.memory_estimate import fits_check
from ft_pipeline.training.adapter import require_memory
from ft_pipeline.training.memory.estimate import estimate_experiment, estimate_memory
from ft_pipeline.training.memory.layer_sizes import read_shape
from ft_pipeline.training.memory.parts import MemoryPlan
from ft_pipeline.training.memory.rank_share import RankCount, describe_ranks
from ft_pipeline_tests.training.subject import job

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
SHAPE = read_shape(LLAMA_8B)
PLANS = {
    "lora": MemoryPlan("lora", "adamw_torch", batch=8, length=512),
    "full": MemoryPlan("full", "adamw_torch", batch=8, length=512, autocast=True, gradient_checkpointing=True),
}


def parts(plan, count=1, sharded=False):
    return estimate_memory(SHAPE, replace(plan, ranks=RankCount(count, sharded)))["bytes"]


def experiment(technique="full", count=2, **training):
    keys = {"gradient_checkpointing": True, "optim": "adamw_torch", **training}
    return ExperimentSettings.model_validate({"technique": technique, "gpu": {"count": count}, "training": keys})


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_rank_with_ddp_holds_all_but_the_activations_of_other_rows(plan):
    alone, one_of_two = parts(plan), parts(plan, 2)
    for name in ("weights", "gradients", "optimizer", "overhead"):
        assert one_of_two[name] == alone[name]
    assert one_of_two["activations"] == alone["activations"] / 2
    assert parts(plan, 3)["activations"] == pytest.approx(alone["activations"] * 3 / 8, rel=1e-6)


def test_a_rank_with_shards_holds_its_share_and_what_is_gathered():
    alone, one_of_four = parts(PLANS["full"]), parts(PLANS["full"], 4, sharded=True)
    assert one_of_four["optimizer"] == pytest.approx(alone["optimizer"] / 4)
    outside = 2 * SHAPE.vocabulary * SHAPE.hidden + SHAPE.hidden
    layer = (SHAPE.params - outside) / SHAPE.layers
    gathered = outside + 2 * layer
    assert one_of_four["gradients"] == pytest.approx(4 * (SHAPE.params / 4 + gathered), rel=1e-6)
    # The 16-bit copies of what computes.
    assert one_of_four["weights"] == pytest.approx(4 * (SHAPE.params / 4 + gathered) + 2 * (outside + layer), rel=1e-6)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_more_ranks_never_need_more_each(plan):
    totals = [sum(parts(plan, count, sharded=True).values()) for count in (2, 4, 8)]
    assert totals == sorted(totals, reverse=True) and totals[0] < sum(parts(plan, 2).values())


def test_the_copies_of_autocast_are_whole_without_checkpointing():
    kept = replace(PLANS["full"], gradient_checkpointing=False)
    saved = parts(kept, 8, sharded=True)["weights"] - parts(PLANS["full"], 8, sharded=True)["weights"]
    outside = 2 * SHAPE.vocabulary * SHAPE.hidden + SHAPE.hidden
    assert saved == pytest.approx(2 * (SHAPE.params - outside) * 31 / 32, rel=1e-6)


def test_an_experiment_with_several_gpus_is_estimated_by_rank():
    estimate = estimate_experiment(experiment("lora"), LLAMA_8B, 512, None)
    assert estimate["ranks"] == {
        "count": 2,
        "ddp_gb": estimate["total_gb"],
        "fsdp2_gb": estimate_experiment(experiment("lora"), LLAMA_8B, 512, None, ranks=RankCount(2, sharded=True))[
            "total_gb"
        ],
    }
    assert describe_ranks(estimate["ranks"]).startswith("each of 2 GPUs: ")
    assert "ranks" not in estimate_experiment(experiment("lora", count=1), LLAMA_8B, 512, None)
    eight_bit = estimate_experiment(experiment("qlora", optim="paged_adamw_8bit"), LLAMA_8B, 512, None)
    assert eight_bit["ranks"]["fsdp2_gb"] is None and "FSDP2" not in describe_ranks(eight_bit["ranks"])


def test_a_model_that_only_fits_with_shards_passes_the_check():
    estimate = estimate_experiment(experiment(count=8), LLAMA_8B, 512, 60.0)
    assert estimate["possible"] and estimate["ranks"]["ddp_gb"] > 100 and estimate["ranks"]["fsdp2_gb"] < 60
    check = fits_check(estimate, 60.0)
    assert check["passed"] and "each of 8 GPUs: " in check["message"] and "with FSDP2; at least" in check["message"]
    assert not estimate_experiment(experiment(count=2), LLAMA_8B, 512, 24.0)["possible"]


def test_ranks_whose_gpus_are_too_small_are_refused_before_loading(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=60e9))
    work = replace(job("adapter", tmp_path, experiment(), {"base_model": tmp_path}), device="cuda:0")
    rows = [{"input_ids": [1] * 500}]
    require_memory(experiment(), replace(work, rank=Rank(0, 8, sharded=True)), rows)
    with pytest.raises(UserError, match=r"needs at least \d+\.\d GB, and this GPU has 60\.0 GB"):
        require_memory(experiment(), replace(work, rank=Rank(0, 8)), rows)


def test_ft_memory_shows_the_need_of_each_gpu(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "two.yaml").write_text(
        f"base_model: {base}\ntechnique: lora\ngpu: {{count: 2}}\ntraining: {{optim: adamw_torch}}\n"
    )
    (tmp_path / "project.yaml").write_text("project: {name: memory}\n")
    monkeypatch.setenv("FT_PROJECT", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    printed = CliRunner().invoke(app, ["memory", "--experiment", "two"]).stdout.replace("\n", " ")
    assert "Memory of each of 2 GPUs: " in printed and "GB with FSDP2. The table is for one of them." in printed
