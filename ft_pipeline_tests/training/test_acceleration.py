"""Rows end to end and compiled layers: the losses and gradients of padded rows, or a clear error."""

import hashlib
import importlib.util
import sysconfig
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from ft_pipeline.errors import UserError
from ft_pipeline.models import attention
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.load import load_model
from ft_pipeline.models.model_structure import causal_lm
from ft_pipeline.preferences.dpo import REFERENCES, collate_pairs
from ft_pipeline.training import adapter
from ft_pipeline.training.memory import parts
from ft_pipeline.training.memory.estimate import estimate_memory
from ft_pipeline.training.memory.layer_sizes import nearest_llama
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import (
    require_attention,
    speed_up,
    why_not_compiled,
    without_compiled_code,
)
from ft_pipeline.training.trainer.batches import collate, count_tokens
from ft_pipeline.training.trainer.loss import answer_loss, answer_states, sequence_log_probabilities
from ft_pipeline_tests.training.architectures import tiny_model_of
from ft_pipeline_tests.training.subject import job, make_training_data, settings, support_rows

COMPILES = pytest.mark.skipif(why_not_compiled() is not None, reason=f"{why_not_compiled()}")
ATTENTION_PATHS = {"scores kept": 512, "flash": 0, "both": 40}
"""The longest row whose attention scores are kept, by the code path that the test takes."""


def training(**keys):
    return settings("lora", **keys).training


def rows_of(*lengths, vocabulary=300):
    generator = torch.Generator().manual_seed(7)
    rows = []
    for length in lengths:
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [MASKED] * (length // 3) + ids[length // 3 :]})
    return rows


ROWS = rows_of(3, 70, 41, 40, 12, 1)


@pytest.fixture
def models(tiny_base):
    """The same model twice in 32 bit: one reads padded batches, one reads rows end to end."""
    padded, flat = (AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32) for _ in range(2))
    speed_up(flat, training(padding_free=True), "cpu")
    return padded, flat


def gradients(model, batch):
    model.zero_grad()
    total, count = answer_loss(model, batch)
    total.backward()
    return float(total.detach()), count, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("path", ATTENTION_PATHS)
def test_rows_end_to_end_give_the_loss_and_gradient_of_padded_rows(models, monkeypatch, path):
    monkeypatch.setattr(attention, "_SHORT_ROW_TOKENS", ATTENTION_PATHS[path])
    padded, flat = models
    padded_loss, padded_count, padded_gradients = gradients(padded, collate(ROWS, 0))
    flat_loss, flat_count, flat_gradients = gradients(flat, collate(ROWS, None))
    assert flat_count == padded_count == sum(label != MASKED for row in ROWS for label in row["labels"][1:])
    assert flat_loss == pytest.approx(padded_loss, rel=1e-5)
    for name, gradient in padded_gradients.items():
        torch.testing.assert_close(flat_gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("path", ATTENTION_PATHS)
def test_no_row_attends_to_another_row(models, monkeypatch, path):
    monkeypatch.setattr(attention, "_SHORT_ROW_TOKENS", ATTENTION_PATHS[path])
    _, flat = models
    first, second, third = ROWS[1:4]
    changed = {**second, "input_ids": [4] * len(second["input_ids"])}
    with torch.no_grad():
        before, _ = answer_states(flat, collate([first, second, third], None))
        after, _ = answer_states(flat, collate([first, changed, third], None))
    trained = [sum(label != MASKED for label in row["labels"][1:]) for row in (first, second, third)]
    same = (before == after).all(-1)
    parts = same.split(trained)
    assert parts[0].all() and parts[2].all() and not parts[1].any()


def test_log_probabilities_belong_to_their_rows(models):
    padded, flat = models
    with torch.no_grad():
        torch.testing.assert_close(
            sequence_log_probabilities(flat, collate(ROWS, None)),
            sequence_log_probabilities(padded, collate(ROWS, 0)),
            rtol=1e-4,
            atol=1e-4,
        )


def test_preference_pairs_are_joined_end_to_end_too():
    pairs = [
        {**row, "rejected_ids": [5, 6], "rejected_labels": [MASKED, 6], **dict.fromkeys(REFERENCES, 0.0)}
        for row in ROWS
    ]
    batch = collate_pairs(pairs, None)
    lengths = [len(row["input_ids"]) for row in ROWS] + [2] * len(ROWS)
    assert batch["cu_seq_lens"].diff().tolist() == lengths
    assert count_tokens(batch) == sum(lengths) and count_tokens(collate_pairs(pairs, 0)) == sum(lengths)


def test_the_memory_estimate_counts_the_attention_scores_that_are_kept():
    assert parts.SHORT_ROW_TOKENS == attention._SHORT_ROW_TOKENS
    shape = nearest_llama(135e6)
    plain = parts.MemoryPlan(technique="lora", device="cpu", batch=8, length=parts.SHORT_ROW_TOKENS)
    flat = replace(plain, padding_free=True)
    activations = [
        estimate_memory(shape, replace(plan, length=length))["bytes"]["activations"]
        for length in (parts.SHORT_ROW_TOKENS, parts.SHORT_ROW_TOKENS + 1)
        for plan in (plain, flat)
    ]
    # Rows, layers and one in the backward pass, heads, pairs of tokens, bytes.
    scores = 8 * 31 * 9 * parts.SHORT_ROW_TOKENS**2 * 2
    assert activations[1] - activations[0] == scores and activations[3] == activations[2]


def test_attention_for_rows_end_to_end_refuses_a_padded_batch(models):
    _, flat = models
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        answer_loss(flat, collate(ROWS, 0))


class FakeKernel:
    """Accepts what torch's variable-length kernel accepts on a GPU (only 16 bit), and computes row by row."""

    def __init__(self):
        self.calls = 0

    def __call__(self, query, key, value, begins, _, longest, __, *, scale, window_size, enable_gqa):
        assert {tensor.dtype for tensor in (query, key, value)} == {torch.bfloat16}
        assert window_size == (-1, 0) and longest == begins.diff().max()
        self.calls += 1
        rows = zip(*(tensor.split(begins.diff().tolist()) for tensor in (query, key, value)), strict=True)
        attended = [
            torch.nn.functional.scaled_dot_product_attention(
                *(tensor.transpose(0, 1)[None] for tensor in row), is_causal=True, scale=scale, enable_gqa=enable_gqa
            )[0].transpose(0, 1)
            for row in rows
        ]
        return torch.cat(attended)


def test_the_gpu_kernel_gets_16_bit_when_all_weights_train(tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "bfloat16")
    kernel = FakeKernel()
    monkeypatch.setattr(attention, "_kernel_for", lambda device: kernel)
    padded, flat = (load_model(tiny_base, "cpu", dtype=torch.float32) for _ in range(2))
    speed_up(flat, training(padding_free=True), "cpu")
    assert kernel.calls == 2  # the probe, in each layer
    with compute_autocast(padded), compute_autocast(flat):
        padded_loss, _, padded_gradients = gradients(padded, collate(ROWS, 0))
        flat_loss, _, flat_gradients = gradients(flat, collate(ROWS, None))
    assert kernel.calls == 4
    assert flat_loss == pytest.approx(padded_loss, rel=1e-3)
    for name, gradient in padded_gradients.items():
        assert flat_gradients[name].dtype == torch.float32
        assert float((flat_gradients[name] - gradient).norm()) < 0.05 * float(gradient.norm()), name


def test_the_gpu_kernel_is_not_used_in_32_bit(models, monkeypatch):
    monkeypatch.setattr(attention, "_kernel_for", lambda device: pytest.fail("the kernel was called"))
    padded, flat = models
    with torch.no_grad():
        assert float(answer_loss(flat, collate(ROWS, None))[0]) == pytest.approx(
            float(answer_loss(padded, collate(ROWS, 0))[0]), rel=1e-5
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), settings())


def trained(folder, data, base, **keys):
    work = job("adapter", folder, settings("lora", max_steps=6, **keys), {"training_data": data, "base_model": base})
    summary = adapter.run(work)
    weights = hashlib.sha256((work.out / "adapter_model.safetensors").read_bytes()).hexdigest()
    return weights, summary


def test_training_on_rows_end_to_end_learns_the_same_and_is_repeatable(tmp_path, data, tiny_base, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")  # in bf16, products may depend on the shape of a batch
    _, padded = trained(tmp_path / "padded", data, tiny_base)
    first, flat = trained(tmp_path / "flat", data, tiny_base, padding_free=True)
    again, _ = trained(tmp_path / "again", data, tiny_base, padding_free=True)
    assert first == again
    assert flat["first_eval_loss"] == pytest.approx(padded["first_eval_loss"], rel=512 * 2**-24)  # its longest sums
    assert flat["best_eval_loss"] == pytest.approx(padded["best_eval_loss"], rel=1e-3)
    assert flat["best_eval_loss"] < flat["first_eval_loss"] - 0.05


@pytest.mark.long
@COMPILES
def test_compiled_layers_learn_the_same(tmp_path, data, tiny_base):
    _, plain = trained(tmp_path / "plain", data, tiny_base)
    _, compiled = trained(tmp_path / "compiled", data, tiny_base, torch_compile=True)
    assert compiled["first_eval_loss"] == plain["first_eval_loss"]  # held-out losses do not use compiled layers
    assert compiled["best_eval_loss"] == pytest.approx(plain["best_eval_loss"], rel=1e-2)


@COMPILES
@pytest.mark.long
def test_torch_compile_compiles_the_layers(models):
    _, flat = models
    speed_up(flat, training(torch_compile=True), "cpu")
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    with torch.no_grad():
        with without_compiled_code():
            answer_loss(flat, collate(ROWS, None))
        assert graphs["unique_graphs"] == before
        answer_loss(flat, collate(ROWS, None))
    assert graphs["unique_graphs"] > before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda sizes: Gemma2ForCausalLM(Gemma2Config(head_dim=16, **sizes)), "gemma2 model"),
        (lambda sizes: MistralForCausalLM(MistralConfig(sliding_window=64, **sizes)), "attend to all previous"),
    ],
)
def test_padding_free_is_refused_for_models_with_other_attention(model, reason):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    built = model({**sizes, "num_attention_heads": 2, "num_key_value_heads": 1})
    with pytest.raises(UserError, match=rf"padding_free: .*{reason}.*Remove padding_free"):
        speed_up(built, training(padding_free=True), "cpu")
    before = built.config._attn_implementation
    speed_up(built, training(), "cpu")
    assert built.config._attn_implementation == before  # by default it is only used where the model allows it


def test_by_default_a_cpu_reads_rows_without_padding(models):
    model, _ = models
    others = ({"padding_free": False}, {"neftune_noise_alpha": 5}, {"attn_implementation": "sdpa"})
    for keys, device in (({}, "cuda:0"), *((keys, "cpu") for keys in others)):
        speed_up(model, training(**keys), device)
        assert not attention.reads_end_to_end(model)
    speed_up(model, training(), "cpu")
    assert attention.reads_end_to_end(model)


@pytest.mark.parametrize("technique", ["lora", "qlora", "full", "prompt_tuning"])
def test_training_uses_the_configured_attention(tiny_base, technique):
    for name in ("eager", "sdpa"):
        model = causal_lm(new_model(tiny_base, settings(technique, attn_implementation=name), "cpu"))
        assert model.config._attn_implementation == name
    assert "attn_implementation" not in model.config.to_json_string()


def test_an_attention_that_the_model_does_not_support_is_refused(tmp_path):
    base = tiny_model_of("gemma2", tmp_path)
    with pytest.raises(UserError, match=r"attn_implementation is sdpa, and the model cannot use it: .*Remove it"):
        new_model(base, settings("full", attn_implementation="sdpa"), "cpu")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_an_attention_for_gpus_is_refused_on_a_cpu_before_loading(tmp_path, data, name):
    inputs = {"training_data": data, "base_model": tmp_path / "none"}
    with pytest.raises(UserError, match=f"attn_implementation is {name}, which needs a GPU, .*trains on cpu"):
        adapter.run(job("adapter", tmp_path, settings("lora", attn_implementation=name), inputs))


def test_a_missing_flash_attention_package_is_named():
    if importlib.util.find_spec("flash_attn"):
        pytest.skip("flash_attn is installed")
    with pytest.raises(UserError, match=r"flash_attention_2, but the package flash_attn is not installed\. Install it"):
        require_attention("flash_attention_2", "cuda:0")
    require_attention("flex_attention", "cuda:0")


def test_liger_kernels_are_refused_on_a_cpu(models):
    with pytest.raises(UserError, match="use_liger_kernel needs a GPU, but this run trains on cpu"):
        speed_up(models[0], training(use_liger_kernel=True), "cpu")


def test_torch_compile_is_refused_in_float32(models, monkeypatch):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    with pytest.raises(UserError, match=r"torch_compile: compiled layers give wrong results in float32.*, or remove"):
        speed_up(models[0], training(torch_compile=True), "cpu")


def test_torch_compile_without_a_compiler_raises_a_clear_error(models, monkeypatch, tmp_path):
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "bfloat16")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"torch_compile: compilation needs a C\+\+ compiler.*apt install g\+\+"):
        speed_up(models[0], training(torch_compile=True), "cpu")
    (tmp_path / "g++").touch(mode=0o700)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"torch_compile: compilation needs the headers of this Python.*python3-dev"):
        speed_up(models[0], training(torch_compile=True), "cpu")
