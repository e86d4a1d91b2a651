"""The memory estimate: the textbook numbers, exact parameter counts, and useful advice."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.training import ATTENTION
from ft_pipeline.training.adapter import require_memory
from ft_pipeline.training.memory.estimate import estimate_experiment, estimate_memory
from ft_pipeline.training.memory.layer_sizes import nearest_llama, read_shape
from ft_pipeline.training.memory.parts import MemoryPlan
from ft_pipeline_tests.training.subject import job

SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}


def test_full_training_of_7b_needs_56_gb_before_activations():
    estimated = estimate_memory(nearest_llama(7e9), MemoryPlan("full", "adamw_torch"), params=7e9, gpu_memory_gb=24)
    parts = estimated["bytes"]
    assert [parts[name] / 1e9 for name in ("weights", "gradients", "optimizer")] == [14, 14, 28]
    assert estimated["fits"] is False and estimated["possible"] is False
    assert "set technique: qlora" in estimated["advice"]
    assert estimated["total_gb"] == pytest.approx(sum(parts.values()) / 1e9)


def test_parameter_counts_are_exact():
    shape = read_shape(SMOLLM2)
    assert shape.params == 134_515_008
    assert shape.adapter_params(8, ["q_proj", "k_proj", "v_proj", "o_proj"]) == 921_600
    assert shape.adapter_params(8, "all-linear") == 2_442_240


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
def test_lora_needs_less_than_full_and_qlora_less_than_lora(optim):
    shape = nearest_llama(7e9)
    full, lora, qlora = (
        estimate_memory(shape, MemoryPlan(name, optim))["total_gb"] for name in ("full", "lora", "qlora")
    )
    assert full > lora > qlora
    assert estimate_memory(shape, MemoryPlan("qlora", optim, gradient_checkpointing=True))["total_gb"] < qlora


def test_a_4_bit_weight_takes_a_little_over_half_a_byte():
    shape = nearest_llama(7e9)
    packed = shape.matrix_params
    weights = estimate_memory(shape, MemoryPlan("qlora"))["bytes"]["weights"]
    # Adapters are 32 bit, with a copy that is rounded to the compute type.
    rest = 2 * (shape.params - packed) + (4 + 2) * shape.adapter_params(8, "all-linear")
    assert (weights - rest) / packed == pytest.approx(0.516, abs=0.001)


def test_the_advice_names_settings_that_fit_or_a_smaller_model():
    shape = nearest_llama(7e9)
    estimated = estimate_memory(shape, MemoryPlan("qlora", batch=8, length=2048), gpu_memory_gb=16)
    assert estimated["fits"] is False and estimated["possible"] is True
    assert any("gradient_checkpointing" in line for line in estimated["advice"])
    (advice,) = estimate_memory(shape, MemoryPlan("qlora"), gpu_memory_gb=2)["advice"]
    assert "smaller base_model" in advice


def test_an_experiment_is_estimated_from_its_config_and_longest_row():
    short = estimate_experiment(ExperimentSettings(), SMOLLM2, 100, None)
    long = estimate_experiment(ExperimentSettings(), SMOLLM2, 1000, None)
    assert short["fits"] is None and short["technique"] == "qlora"
    assert long["bytes"]["activations"] == 10 * short["bytes"]["activations"]


def test_unknown_optimizers_and_incomplete_configs_are_refused():
    with pytest.raises(UserError, match="adam_w"):
        estimate_memory(nearest_llama(1e9), MemoryPlan("full", "adam_w"))
    with pytest.raises(UserError, match="intermediate_size"):
        read_shape({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1})


@pytest.mark.parametrize(("technique", "sizes"), [("lora", 2), ("qlora", 3)])
def test_the_estimate_for_a_cpu_counts_packed_matrices(technique, sizes):
    shape = nearest_llama(1e9)
    cpu, cuda = (estimate_memory(shape, MemoryPlan(technique, device=device))["bytes"] for device in ("cpu", "cuda"))
    assert cpu["packed"] >= sizes * shape.matrix_params * 2 and "packed" not in cuda
    assert "packed" not in estimate_memory(shape, MemoryPlan("full", device="cpu"))["bytes"]


def test_the_estimate_does_not_import_torch():
    heavy = "bool({'torch', 'transformers'} & set(sys.modules))"
    code = f"import sys, ft_pipeline.training.memory.estimate; print({heavy})"
    assert json.loads(subprocess.check_output([sys.executable, "-c", code], text=True).strip().lower()) is False


def test_full_training_counts_32_bit_weights_and_16_bit_copies():
    shape = nearest_llama(7e9)
    parts = estimate_memory(shape, MemoryPlan("full", "adamw_torch", autocast=True), params=7e9)["bytes"]
    assert [parts[name] / 1e9 for name in ("weights", "gradients", "optimizer")] == [42, 28, 56]
    assert estimate_experiment(ExperimentSettings(technique="full"), SMOLLM2, 100, None)["bytes"]["gradients"] == (
        4 * 134_515_008
    )


LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def test_full_training_of_8b_fits_in_80_gb_only_in_pure_bf16():
    training = {"gradient_checkpointing": True, "per_device_train_batch_size": 4, "max_length": 2048}
    exact, pure = (
        estimate_experiment(
            ExperimentSettings(technique="full", training={**training, "pure_bf16": flag}), LLAMA_8B, 2048, 80
        )
        for flag in (False, True)
    )
    assert exact["possible"] is False and any("pure_bf16: true" in line for line in exact["advice"])
    assert pure["fits"] is True
    params, embeddings = 8_030_261_248, 128_256 * 4096
    assert pure["params"] == params
    assert pure["bytes"]["weights"] == pure["bytes"]["gradients"] == 2 * params
    assert pure["bytes"]["optimizer"] == 2 * params + 6 * embeddings  # 8-bit states, those of embeddings 32 bit


def test_a_gpu_that_is_too_small_is_refused_before_loading(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80e9))
    settings = ExperimentSettings(technique="full", training={"gradient_checkpointing": True})
    work = replace(job("adapter", tmp_path, settings, {"base_model": tmp_path}), device="cuda:0")
    rows = [{"input_ids": [1] * 500}]
    with pytest.raises(UserError, match=r"needs at least \d+\.\d GB, and this GPU has 80\.0 GB\. .*pure_bf16: true"):
        require_memory(settings, work, rows)
    require_memory(ExperimentSettings(), work, rows)
    require_memory(settings, replace(work, device="cpu"), rows)


def test_prompt_tuning_counts_a_small_prompt_that_lengthens_each_row():
    shape, plan = read_shape(SMOLLM2), MemoryPlan("prompt_tuning", "adamw_torch", length=100, virtual_tokens=20)
    prompt, lora = (
        estimate_memory(shape, plan)["bytes"],
        estimate_memory(shape, MemoryPlan("lora", "adamw_torch", length=120, target_modules=ATTENTION))["bytes"],
    )
    assert prompt["gradients"] == 4 * 20 * 576 and prompt["optimizer"] == 2 * prompt["gradients"]
    read_by_lora = 120 * 31 * 2 * 576
    assert prompt["activations"] == lora["activations"] - read_by_lora


def test_a_preference_pair_counts_as_two_rows():
    pairs = estimate_experiment(ExperimentSettings(objective="dpo"), SMOLLM2, 100, None)
    rows = estimate_experiment(ExperimentSettings(), SMOLLM2, 100, None)
    assert pairs["bytes"]["activations"] == 2 * rows["bytes"]["activations"]


def test_a_prompt_counts_as_the_answers_of_its_group_and_the_start_is_kept():
    grpo = {"rewards": {"exact_match": 1}, "num_generations": 4, "max_new_tokens": 60}
    training = {"per_device_train_batch_size": 2}
    groups = estimate_experiment(ExperimentSettings(objective="grpo", grpo=grpo, training=training), SMOLLM2, 100, None)
    without_kl = estimate_experiment(
        ExperimentSettings(objective="grpo", grpo={**grpo, "beta": 0}, training=training), SMOLLM2, 100, None
    )
    rows = estimate_experiment(ExperimentSettings(training={"per_device_train_batch_size": 8}), SMOLLM2, 160, None)
    assert groups["bytes"]["activations"] == rows["bytes"]["activations"]
    start = 4 * read_shape(SMOLLM2).adapter_params(8, "all-linear")
    assert groups["bytes"]["weights"] == without_kl["bytes"]["weights"] + start
    assert without_kl["bytes"]["weights"] == rows["bytes"]["weights"]


def test_a_cpu_is_estimated_in_both_compute_types():
    settings = ExperimentSettings(technique="lora", training={"optim": "adamw_torch"})
    cuda = estimate_experiment(settings, SMOLLM2, 256, None)
    narrow = estimate_experiment(settings, SMOLLM2, 256, None, device="cpu")
    wide = estimate_experiment(settings, SMOLLM2, 256, None, device="cpu", dtype="float32")
    assert cuda["cpu_gb"] == {"bfloat16": narrow["total_gb"], "float32": wide["total_gb"]}
    assert wide["cpu_gb"] == narrow["cpu_gb"] == cuda["cpu_gb"]
    trained = read_shape(SMOLLM2).adapter_params(8, "all-linear")
    assert narrow["bytes"]["weights"] == 2 * 134_515_008 + (4 + 2) * trained
    assert wide["bytes"]["weights"] == 4 * 134_515_008 + 4 * trained
    for part in ("gradients", "optimizer"):
        assert wide["bytes"][part] == narrow["bytes"][part]


def test_the_norms_keep_32_bit_in_either_compute_type():
    """The other values that a layer keeps have the compute type: in 32 bit they take twice as much."""
    shape, rows = read_shape(SMOLLM2), 4 * 256
    plan = MemoryPlan("prompt_tuning", "adamw_torch", batch=4, length=256, virtual_tokens=0, device="cpu")
    narrow, wide = (estimate_memory(shape, replace(plan, dtype=name))["bytes"] for name in ("bfloat16", "float32"))
    norms = rows * 31 * 2 * 576 * 4
    assert wide["activations"] - norms == 2 * (narrow["activations"] - norms)


def test_full_training_in_float32_needs_no_copies():
    settings = ExperimentSettings(technique="full", training={"optim": "adamw_torch"})
    narrow = estimate_experiment(settings, SMOLLM2, 256, None, device="cpu")["bytes"]
    wide = estimate_experiment(settings, SMOLLM2, 256, None, device="cpu", dtype="float32")["bytes"]
    assert (narrow["weights"], wide["weights"]) == (6 * 134_515_008, 4 * 134_515_008)
    assert wide["gradients"] == narrow["gradients"] == 4 * 134_515_008


def test_a_lighter_technique_is_advised_if_full_training_does_not_fit():
    """Its frozen weights are 16 bit only, without the 32-bit weights of `full`."""
    settings = ExperimentSettings(technique="full", training={"per_device_train_batch_size": 1})
    assert "set technique: lora" in estimate_experiment(settings, SMOLLM2, 64, 1.3)["advice"]


def test_the_estimate_for_a_cpu_has_no_cuda_context():
    shape = nearest_llama(1e9)
    cuda, cpu = (
        estimate_memory(shape, MemoryPlan("lora", device=name))["bytes"]["overhead"] for name in ("cuda", "cpu")
    )
    saved = cuda - cpu
    assert saved == 500_000_000


@pytest.fixture
def ft(tmp_path, monkeypatch):
    """`ft memory …` in a project whose one experiment starts from a folder with a config.json."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(SMOLLM2))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "small.yaml").write_text(
        f"base_model: {base}\ntechnique: lora\ntraining: {{max_length: 256}}\n"
    )
    (tmp_path / "project.yaml").write_text("project: {name: memory}\n")
    monkeypatch.setenv("FT_PROJECT", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))

    def run(*arguments):
        return CliRunner().invoke(app, ["memory", *arguments])

    return run


def test_ft_memory_prints_the_textbook_numbers(ft):
    command = "--params 7e9 --technique full --optimizer adamw_torch --dtype bfloat16 --gpu-memory-gb 24 --json"
    printed = json.loads(ft(*command.split()).stdout)
    assert [printed["bytes"][name] / 1e9 for name in ("weights", "gradients", "optimizer")] == [14, 14, 28]
    assert printed["fits"] is False and printed["advice"]


def test_ft_memory_reads_an_experiment_without_its_weights(ft):
    printed = json.loads(ft("--experiment", "small", "--json").stdout)
    assert printed["params"] == 134_515_008 and printed["technique"] == "lora" and printed["fits"] is None
    assert printed["cpu_gb"]["float32"] > printed["cpu_gb"]["bfloat16"] > 0.3
    assert f"On a CPU: {printed['cpu_gb']['bfloat16']:.1f} GB in bfloat16, " in ft("--experiment", "small").stdout
    table = ft("--experiment", "small", "--gpu-memory-gb", "0.5").stdout
    assert "activations" in table and "does not fit in 0.5 GB" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--experiment NAME, or --params N"),
        (["--params", "7"], "7e9 for 7 billion"),
        (["--params", "7e9", "--technique", "lroa"], "'lroa' is not supported"),
        (["--experiment", "smal"], "smal"),
    ],
)
def test_the_errors_of_ft_memory_contain_the_fix(ft, arguments, message):
    error = ft(*arguments).exception
    assert isinstance(error, UserError) and message in str(error)
