"""Fused LoRA layers give the logits and gradients of PEFT's layers; variants they do not support keep PEFT's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ft_pipeline.models.adapter_precision import keep_adapter_in_32_bit
from ft_pipeline.models.cpu.dequantize import dequantize_once
from ft_pipeline.models.cpu.fast_linear import fuse_lora
from ft_pipeline.models.cpu.packed_linear import pack_frozen
from ft_pipeline.models.load import keep_weights_unpacked, load_model
from ft_pipeline_tests.models.material import IDS, NEEDS_BF16, NF4


def adapted(base: Path, dtype: torch.dtype, quantized: bool = False, **keys: Any) -> Any:
    model = load_model(base, "cpu", quantization=NF4 if quantized else None, dtype=dtype)
    keep_weights_unpacked(model)
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **keys}
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    keep_adapter_in_32_bit(model)
    return model


def pack(model: Any) -> int:
    dequantize_once(model)
    pack_frozen(model, trains=True)
    return fuse_lora(model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()
    model(IDS, labels=IDS).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("quantized", [False, True], ids=["lora", "qlora"])
@pytest.mark.parametrize("keys", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_logits_and_gradients_equal_those_of_peft(tiny_base: Path, quantized: bool, keys: dict[str, Any]) -> None:
    peft, fused = (adapted(tiny_base, torch.float32, quantized, **keys) for _ in range(2))
    assert pack(fused) == 2 * 7
    expected, computed = gradients(peft), gradients(fused)
    assert computed.keys() == expected.keys() and len(computed) == 2 * 7 * 2
    for name, gradient in expected.items():
        assert relative_error(computed[name], gradient) < 1e-5, name
    with torch.inference_mode():
        torch.testing.assert_close(fused.eval()(IDS).logits, peft.eval()(IDS).logits)


@NEEDS_BF16
def test_the_error_in_16_bit_is_about_that_of_peft(tiny_base: Path) -> None:
    exact = gradients(adapted(tiny_base, torch.float32))
    peft, fused = (adapted(tiny_base, torch.bfloat16) for _ in range(2))
    assert pack(fused) == 2 * 7
    fused_error, peft_error = (
        sum(relative_error(gradient, exact[name]) for name, gradient in gradients(model).items())
        for model in (fused, peft)
    )
    assert fused_error < 1.1 * peft_error


def relative_error(computed: torch.Tensor, expected: torch.Tensor) -> float:
    assert computed.dtype == torch.float32
    return float((computed - expected).norm() / expected.norm())


def test_a_disabled_adapter_gives_the_base_model(tiny_base: Path) -> None:
    model = adapted(tiny_base, torch.float32)
    base = load_model(tiny_base, "cpu", dtype=torch.float32)
    pack(model)
    with torch.inference_mode():
        with model.disable_adapter():
            torch.testing.assert_close(model(IDS).logits, base(IDS).logits)
        assert not torch.allclose(model(IDS).logits, base(IDS).logits)


@pytest.mark.parametrize("keys", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_unsupported_lora_variants_keep_the_layers_of_peft(tiny_base: Path, keys: dict[str, Any]) -> None:
    peft, packed = (adapted(tiny_base, torch.float32, **keys) for _ in range(2))
    assert pack(packed) == 0
    with torch.inference_mode():
        torch.testing.assert_close(packed.eval()(IDS).logits, peft.eval()(IDS).logits)


def test_the_weights_keep_their_names(tiny_base: Path) -> None:
    model = adapted(tiny_base, torch.float32)
    names = model.state_dict().keys()
    pack(model)
    assert model.state_dict().keys() == names
