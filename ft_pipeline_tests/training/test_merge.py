"""Merging adds exactly (alpha/r)·B·A and keeps what was learned; the check rejects a model unlike the adapter."""

import json
import shutil
import weakref

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import render
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import merged_model
from ft_pipeline.training import adapter
from ft_pipeline.training.merging import merge
from ft_pipeline.training.merging.equivalence import Measurement, kl_divergence, measure_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.loss import Head
from ft_pipeline_tests.training.subject import PAIRS, conversation, job, make_training_data

# Long enough for a tiny random model to memorize the pairs.
LEARN = {
    "learning_rate": 1e-2,
    "num_train_epochs": 20,
    "per_device_train_batch_size": 8,
    "eval_steps": 30,
    "early_stopping_patience": 9,
}


def experiment(technique, mode="dequantized"):
    return ExperimentSettings.model_validate(
        {
            "technique": technique,
            "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "training": LEARN,
            "merge": {"mode": mode},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    train = [conversation(number, [pair], "train") for number, pair in enumerate(PAIRS * 4)]
    validation = [conversation(100 + number, [pair], "validation") for number, pair in enumerate(PAIRS)]
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, train + validation, experiment("lora"))


# A merge of LoRA is also that of test_techniques.py.
@pytest.fixture(scope="module", params=[pytest.param("lora", marks=pytest.mark.long), "qlora"])
def trained(request, tmp_path_factory, data, tiny_base):
    folder = tmp_path_factory.mktemp(request.param)
    work = job("adapter", folder, experiment(request.param), {"training_data": data, "base_model": tiny_base})
    adapter.run(work)
    return request.param, work.out


def merged(folder, settings, data, base, adapter_folder):
    inputs = {"training_data": data, "base_model": base, "adapter": adapter_folder}
    work = job("merged_model", folder, settings, inputs)
    return work.out, merged_model.run(work)


@pytest.fixture(scope="module")
def merged_once(trained, tmp_path_factory, data, tiny_base):
    """The folder and the summary of one merge with the usual settings, which no test changes."""
    technique, adapter_folder = trained
    return merged(tmp_path_factory.mktemp("merged"), experiment(technique), data, tiny_base, adapter_folder)


def test_learned_answers_survive_merging_and_reloading(merged_once, data):
    folder, summary = merged_once
    assert summary["passed"] and summary["checks"]["merge_equivalence"]["passed"]
    assert summary["kl_adapter_merged"] <= summary["max_kl"]
    tokens = sum(label != MASKED for row in read_split(data, "validation") for label in row["labels"])
    assert (summary["compared_tokens"], summary["compared_rows"], summary["heldout_rows"]) == (tokens, 6, 6)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not hasattr(model.config, "quantization_config")
    for question, answer in PAIRS[3:5]:
        prompt = render(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
        (generated,) = generate(model, tokenizer, [prompt], max_new_tokens=40, batch_size=1)
        assert (generated.text, generated.finish_reason) == (answer, "stop")


def test_the_merged_folder_contains_tokenizer_template_and_config(merged_once, tiny_base):
    folder, _ = merged_once
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (tiny_base / name).read_bytes()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_merge_adds_alpha_over_r_times_b_times_a(trained, tmp_path, tiny_base):
    technique, adapter_folder = trained
    merge.write_merged(tiny_base, adapter_folder, tmp_path / "w16", experiment(technique), "w16")
    before, after = load_file(tiny_base / "model.safetensors"), load_file(tmp_path / "w16" / "model.safetensors")
    weights = load_file(adapter_folder / "adapter_model.safetensors")
    changed = set()
    for key in weights:
        if key.endswith("lora_A.weight"):
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            delta = 32 / 16 * weights[key.replace("lora_A", "lora_B")].float() @ weights[key].float()
            expected = (before[name].float() + delta).to(torch.bfloat16)
            torch.testing.assert_close(after[name], expected, rtol=0, atol=0)
            changed.add(name)
    assert len(changed) == 14
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)


def test_merging_onto_dequantized_weights_rounds_once_and_matrix_by_matrix(trained, tmp_path, tiny_base, monkeypatch):
    """All matrices at once would need more memory than the model: 28 GB in fp32 for 7 billion weights."""
    technique, adapter_folder = trained
    if technique == "lora":
        pytest.skip("nothing is quantized")
    dequantize, references, expected = bitsandbytes.functional.dequantize_4bit, [], []

    def watched(*args):
        weight = dequantize(*args)
        expected.append(weight.to(torch.float32, copy=True))
        references.append(weakref.ref(weight))
        alive_counts.append(sum(reference() is not None for reference in references))
        return weight

    alive_counts = []
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", watched)
    merge.write_merged(tiny_base, adapter_folder, tmp_path / "out", experiment(technique), "dequantized")
    # The previous matrix is released once the next one exists.
    assert len(alive_counts) == 14 and max(alive_counts) <= 2
    merged = load_file(tmp_path / "out" / "model.safetensors")
    names = [name for name, module in load_model(tiny_base, "cpu").named_modules() if f"{name}.weight" in merged]
    updates = merge.lora_updates(adapter_folder)
    for name, weight in zip([name for name in names if name in updates], expected, strict=True):
        total = updates[name].apply(weight).to(torch.bfloat16)
        torch.testing.assert_close(merged[f"{name}.weight"], total, rtol=0, atol=0)


def test_merge_mode_auto_takes_the_lower_held_out_loss_and_records_both(tmp_path, trained, data, tiny_base):
    technique, adapter_folder = trained
    if technique == "lora":
        pytest.skip("LoRA on a 16-bit base has one way to merge")
    _, summary = merged(tmp_path, experiment("qlora", "auto"), data, tiny_base, adapter_folder)
    assert set(summary["candidates"]) == {"dequantized", "w16"}
    passing = {
        mode: candidate["heldout_loss"] for mode, candidate in summary["candidates"].items() if candidate["passed"]
    }
    assert summary["mode"] == min(passing, key=lambda mode: passing[mode])


def test_the_quantization_noise_is_measured(tmp_path, merged_once, trained, data, tiny_base):
    technique, adapter_folder = trained
    _, summary = merged_once
    if technique == "lora":
        assert "noise" not in summary
        return
    lines = {(line["first"], line["second"]): line for line in summary["noise"]}
    assert set(lines) == {
        ("base", "base_4bit"),
        ("adapter", "merged"),
        ("adapter", "merged_4bit"),
        ("merged", "merged_4bit"),
    }
    merge_line = lines["adapter", "merged"]
    assert merge_line["kl"] == pytest.approx(summary["kl_adapter_merged"])
    assert merge_line["first_loss"] == pytest.approx(summary["adapter_heldout_loss"])
    # A merge onto the dequantized weights equals the adapter; quantizing anything again adds an error.
    assert lines["base", "base_4bit"]["kl"] > merge_line["kl"]
    assert lines["adapter", "merged_4bit"]["kl"] > merge_line["kl"]
    for line in summary["noise"]:
        assert line["difference"] == pytest.approx(line["second_loss"] - line["first_loss"])
    quiet = experiment(technique)
    quiet = quiet.model_copy(update={"merge": quiet.merge.model_copy(update={"measure_noise": False})})
    assert "noise" not in merged(tmp_path / "off", quiet, data, tiny_base, adapter_folder)[1]


def test_weights_dequantized_after_a_forward_pass_exceed_the_kl_limit(trained, tmp_path, data, tiny_base):
    """bitsandbytes repacks 4-bit weights for the CPU on first use; dequantizing them afterwards gives wrong values."""
    technique, adapter_folder = trained
    if technique == "lora":
        pytest.skip("nothing is quantized")
    settings = experiment("qlora")
    rows, tokenizer = read_split(data, "validation"), load_tokenizer(tiny_base)
    used = load_model(tiny_base, "cpu", quantization=settings.quantization.model_dump())
    measure_model(used, rows, tokenizer.pad_token_id)
    if not any(getattr(module.weight.quant_state, "packing_format_for_cpu", False) for module in _four_bit(used)):
        pytest.skip("this CPU does not repack 4-bit weights")
    reference = measure_model(
        load_model(tiny_base, "cpu", quantization=settings.quantization.model_dump(), adapter=adapter_folder),
        rows,
        tokenizer.pad_token_id,
    )
    broken = used.dequantize()
    for name, update in merge.lora_updates(adapter_folder).items():
        weight = broken.get_submodule(name).weight
        weight.data = update.apply(weight.data)
    measured = measure_model(broken, rows, tokenizer.pad_token_id)
    assert kl_divergence(reference, measured) > 10 * settings.merge.max_kl


def test_a_merge_without_the_adapters_updates_fails_the_check(trained, tmp_path, data, tiny_base):
    technique, adapter_folder = trained
    emptied = tmp_path / "emptied"
    shutil.copytree(adapter_folder, emptied)
    reference = merge.load_adapter_model(
        job("merged_model", tmp_path, experiment(technique), {"base_model": tiny_base, "adapter": adapter_folder}),
        experiment(technique),
    )
    rows, pad = read_split(data, "validation"), load_tokenizer(tiny_base).pad_token_id
    measured = measure_model(reference, rows, pad)
    weights = load_file(emptied / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(weight) for name, weight in weights.items()}, emptied / "adapter_model.safetensors"
    )
    mode = merge.modes(experiment(technique))[0]
    merge.write_merged(tiny_base, emptied, tmp_path / "out", experiment(technique), mode)
    merged = measure_model(load_model(tmp_path / "out", "cpu"), rows, pad)
    result = merge.check_merge(merged, measured, None, experiment(technique))
    assert not result.passed and result.kl > 0.02


def measured_at(loss):
    """A measurement with this loss at three tokens; all words are equally likely."""
    return Measurement(loss, 1, torch.zeros(3, 5), Head(torch.eye(5), None, 1.0, None), 1)


@pytest.mark.parametrize(("loss", "passed"), [(2.05, True), (2.2, False), (3.5, False)])
def test_a_merge_onto_another_base_must_keep_the_gain(loss, passed):
    """The loss is 3.0 without the adapter and 2.0 with it. Nine tenths of the gain must remain: at most 2.1."""
    result = merge.check_merge(measured_at(loss), measured_at(2.0), 3.0, experiment("qlora"))
    assert result.passed is passed
    assert result.kept_gain == pytest.approx(3.0 - loss)


def test_a_merge_fails_the_check_if_training_gained_nothing():
    result = merge.check_merge(measured_at(3.0), measured_at(3.1), 3.0, experiment("qlora"))
    assert not result.passed


def test_an_adapter_with_more_than_lora_weights_is_refused(trained, tmp_path):
    _, adapter_folder = trained
    shutil.copytree(adapter_folder, tmp_path / "more")
    path = tmp_path / "more" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modules_to_save": ["lm_head"]}))
    with pytest.raises(UserError, match="modules_to_save"):
        merge.lora_updates(tmp_path / "more")


def _four_bit(model):
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]
