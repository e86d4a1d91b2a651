"""4-bit matrices that are dequantized once: logits and gradients stay equal bit for bit."""

import copy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from ft_pipeline.models.cpu.dequantize import DequantizedLinear, dequantize_once
from ft_pipeline.models.load import keep_weights_unpacked, load_model
from ft_pipeline_tests.models.material import IDS, NF4
from ft_pipeline_tests.training.architectures import tiny_model_of


def four_bit(folder: Path, dtype: torch.dtype, lora: dict[str, Any] | None = None, **keys: Any) -> Any:
    model = load_model(folder, "cpu", quantization={**NF4, **keys}, dtype=dtype)
    keep_weights_unpacked(model)
    if lora is not None:
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **lora)
        model = get_peft_model(model, config, autocast_adapter_dtype=False).eval()
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        computed: torch.Tensor = model(input_ids=IDS).logits
    return computed


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    model.eval()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "keys", [{}, {"bnb_4bit_quant_type": "fp4"}, {"bnb_4bit_use_double_quant": False}], ids=["nf4", "fp4", "single"]
)
def test_dequantizing_does_not_change_the_logits(tiny_base: Path, dtype: torch.dtype, keys: dict[str, Any]) -> None:
    model = four_bit(tiny_base, dtype, **keys)
    before = logits(model)
    assert dequantize_once(model) is True
    assert sum(isinstance(module, DequantizedLinear) for module in model.modules()) == 2 * 7
    assert all(module.weight.dtype == dtype for module in model.modules() if isinstance(module, DequantizedLinear))
    assert torch.equal(logits(model), before)
    assert dequantize_once(model) is False, "none is left"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [torch.float32, None], ids=["wide", "as the base"])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_dequantizing_below_an_adapter_does_not_change_logits_or_gradients(
    tiny_base: Path, dtype: torch.dtype, adapter: torch.dtype | None, lora: dict[str, Any]
) -> None:
    model = four_bit(tiny_base, dtype, lora)
    for weight in model.parameters():
        if weight.requires_grad and adapter is not None:
            weight.data = weight.data.to(adapter)
    before, slopes = logits(model), gradients(model)
    names = {name for name, _ in model.named_parameters()}
    assert dequantize_once(model) is True
    assert torch.equal(logits(model), before)
    after = gradients(model)
    assert after.keys() == slopes.keys() and len(after) >= 2 * 7 * 2
    assert all(torch.equal(after[name], slopes[name]) for name in slopes)
    assert any(float(slope.abs().max()) > 0 for slope in slopes.values())
    assert {name for name, _ in model.named_parameters()} == names


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # with biases, with transposed matrices
def test_dequantizing_biases_and_transposed_matrices_does_not_change_the_logits(kind: str, tmp_path: Path) -> None:
    model = four_bit(tiny_model_of(kind, tmp_path), torch.bfloat16)
    before = logits(model)
    assert dequantize_once(model) is True
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(("missing", "done"), [(1, False), (0, True)])
def test_nothing_is_dequantized_if_memory_is_short(
    missing: int, done: bool, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = four_bit(tiny_base, torch.float32)
    needed = sum(layer.in_features * layer.out_features * 4 for layer in _four_bit_layers(model))
    free = psutil.virtual_memory()._replace(available=2 * needed - missing)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert dequantize_once(model) is done
    assert bool(_four_bit_layers(model)) is not done


def test_a_model_that_is_not_in_4_bit_is_left_unchanged(tiny_base: Path) -> None:
    model = load_model(tiny_base, "cpu")
    assert dequantize_once(model) is False


def test_layers_that_would_give_other_results_are_not_dequantized(tiny_base: Path) -> None:
    repacked, mixed = four_bit(tiny_base, torch.bfloat16), four_bit(tiny_base, torch.bfloat16)
    layer = _four_bit_layers(repacked)[0]
    layer.weight.quant_state = copy.copy(layer.weight.quant_state)
    layer.weight.quant_state.packing_format_for_cpu = True
    _four_bit_layers(mixed)[0].compute_dtype = torch.float32
    for model in (repacked, mixed):
        assert dequantize_once(model) is False
        assert len(_four_bit_layers(model)) == 2 * 7


def _four_bit_layers(model: Any) -> list[Any]:
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]
