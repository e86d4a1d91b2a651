"""Which weights each technique trains, and the one formula that merges every kind of LoRA."""

import hashlib
import importlib.util
import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ft_pipeline.errors import UserError
from ft_pipeline.models.load import load_model
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import merged_model
from ft_pipeline.training import adapter
from ft_pipeline.training.merging import merge
from ft_pipeline.training.merging.equivalence import kl_divergence, measure_model
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline_tests.training.subject import FAST, job, make_training_data, support_rows

LORAS = {
    "plain": {"r": 4, "lora_alpha": 12},
    "rslora": {"r": 16, "lora_alpha": 8, "use_rslora": True},
    "dora": {"r": 4, "use_dora": True, "target_modules": "all-linear"},
    "patterns": {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "regular expression": {"target_modules": r".*layers\.0\..*(down|up)_proj"},
}


def experiment(technique, lora=None, **training):
    document = {"technique": technique, "training": {**FAST, "num_train_epochs": 2, **training}}
    return ExperimentSettings.model_validate(document | ({"lora": lora} if lora else {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), experiment("lora"))


def train(folder, data, base, settings):
    work = job("adapter", folder, settings, {"training_data": data, "base_model": base})
    return work, adapter.run(work)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, tiny_base):
    """A function that trains a kind of LoRA once; it returns its settings, its job and its summary."""

    @cache
    def train_kind(technique, kind):
        settings = experiment(technique, LORAS[kind], num_train_epochs=1)
        return (settings, *train(tmp_path_factory.mktemp("lora"), data, tiny_base, settings))

    return train_kind


# The formula does not depend on the base, so two kinds are enough for qlora.
@pytest.mark.parametrize(
    ("technique", "kind"),
    [
        *(("lora", kind) for kind in LORAS),
        *(pytest.param("qlora", kind, marks=pytest.mark.long) for kind in ("dora", "patterns")),
    ],
)
def test_every_kind_of_lora_trains_and_merges_into_the_same_model(technique, kind, trained, tmp_path, data, tiny_base):
    settings, work, summary = trained(technique, kind)
    assert summary["best_eval_loss"] < summary["first_eval_loss"]
    inputs = {"training_data": data, "base_model": tiny_base, "adapter": work.out}
    merged = merged_model.run(job("merged_model", tmp_path / "merged", settings, inputs))
    assert merged["passed"] and merged["kl_adapter_merged"] < 2e-3


@pytest.mark.parametrize("kind", LORAS)
def test_the_lora_update_equals_that_of_peft(kind, trained, tiny_base):
    """In fp32, where nothing is rounded, our sum and PEFT's own merge are the same weights."""
    from peft import PeftModel

    _, work, _ = trained("lora", kind)
    base = load_model(tiny_base, "cpu", dtype=torch.float32)
    updated = {
        name: update.apply(base.get_submodule(name).weight.data.clone())
        for name, update in merge.lora_updates(work.out).items()
    }
    peft_model = PeftModel.from_pretrained(base, str(work.out), autocast_adapter_dtype=True).merge_and_unload()
    assert updated
    for name, weight in updated.items():
        torch.testing.assert_close(weight, peft_model.get_submodule(name).weight.data, rtol=1e-5, atol=1e-6)


def test_rank_and_alpha_patterns_reach_the_matrices(tiny_base):
    model = new_model(tiny_base, experiment("lora", LORAS["patterns"]), "cpu")
    layer = model.get_base_model().model.layers[0].self_attn
    assert layer.q_proj.lora_A["default"].weight.shape[0] == 2
    assert layer.k_proj.lora_A["default"].weight.shape[0] == 4
    assert layer.v_proj.scaling["default"] == 32 / 4


def test_unknown_target_modules_raise_a_clear_error(tiny_base):
    with pytest.raises(UserError, match=r"lora\.target_modules.*query"):
        new_model(tiny_base, experiment("lora", {"target_modules": ["query"]}), "cpu")


@pytest.fixture(scope="module")
def full(tmp_path_factory, data, tiny_base):
    settings = experiment("full", learning_rate=1e-3)
    return (settings, *train(tmp_path_factory.mktemp("full"), data, tiny_base, settings))


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_full_trains_every_weight_and_saves_a_complete_model(full, data, tiny_base):
    _, work, summary = full
    assert summary["trainable_share"] == 1.0
    assert summary["best_eval_loss"] < summary["first_eval_loss"] - 0.05
    model = AutoModelForCausalLM.from_pretrained(work.out)
    assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings
    rows = read_split(data, "validation")
    assert measure_model(model, rows, 0).loss == pytest.approx(summary["best_eval_loss"], abs=0.02)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (work.out / name).read_bytes() == (tiny_base / name).read_bytes()


def test_full_weights_are_trained_in_32_bit_under_autocast(full):
    _, work, _ = full
    checkpoint = next((work.work / "checkpoints").glob("checkpoint-*"))
    assert {weight.dtype for weight in load_file(checkpoint / "model.safetensors").values()} == {torch.float32}


def test_full_training_is_repeatable_and_resumes(full, tmp_path, data, tiny_base):
    settings, first, summary = full
    second, _ = train(tmp_path, data, tiny_base, settings)
    assert hashes(second.out) == hashes(first.out) != {}
    for checkpoint in (second.work / "checkpoints").glob("checkpoint-12"):
        (checkpoint / "complete.json").unlink()
    resumed = adapter.run(second)
    assert 0 < resumed["resumed_from_step"] < summary["steps"] == resumed["steps"]
    assert hashes(second.out) == hashes(first.out)


def test_the_merged_model_of_full_has_the_same_files(full, tmp_path, data, tiny_base):
    settings, work, _ = full
    inputs = {"training_data": data, "base_model": tiny_base, "adapter": work.out}
    merged = job("merged_model", tmp_path, settings, inputs)
    summary = merged_model.run(merged)
    assert summary["mode"] == "full" and summary["checks"]["merge_equivalence"]["passed"]
    assert hashes(merged.out) == hashes(work.out)
    assert (merged.out / "model.safetensors").samefile(work.out / "model.safetensors")
    rows = read_split(data, "validation")
    measured = [measure_model(load_model(folder, "cpu"), rows, 0) for folder in (work.out, merged.out)]
    assert kl_divergence(*measured) == 0


def test_noise_on_the_embeddings_changes_what_is_learned(tmp_path, data, tiny_base):
    plain, _ = train(tmp_path / "plain", data, tiny_base, experiment("lora", max_steps=2))
    noisy, _ = train(tmp_path / "noisy", data, tiny_base, experiment("lora", max_steps=2, neftune_noise_alpha=5.0))
    assert hashes(plain.out) != hashes(noisy.out)


def test_a_tracker_that_is_not_installed_raises_a_clear_error(tmp_path, data, tiny_base):
    if importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed")
    with pytest.raises(UserError, match=r"report_to names mlflow.*pip install mlflow"):
        train(tmp_path, data, tiny_base, experiment("lora", report_to=["mlflow"]))


def test_the_adapter_config_records_dora(trained):
    _, work, _ = trained("lora", "dora")
    assert json.loads((work.out / "adapter_config.json").read_text())["use_dora"] is True
