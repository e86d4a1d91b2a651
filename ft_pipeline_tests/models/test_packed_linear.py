"""Packed linear layers give the products and gradients of plain ones, and change nothing else in the model."""

import copy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from ft_pipeline.models.cpu.packed_linear import FrozenLinear, pack_frozen
from ft_pipeline.models.load import load_model
from ft_pipeline_tests.models.material import DTYPES, IDS


def layers(dtype: torch.dtype, bias: bool = True) -> tuple[nn.Linear, FrozenLinear]:
    """A plain layer and the same one packed."""
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias, dtype=dtype).requires_grad_(False)
    packed = nn.Sequential(copy.deepcopy(plain))
    assert pack_frozen(packed, trains=True) is True
    assert isinstance(packed[0], FrozenLinear)
    return plain, packed[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (1, 1, 48), (700, 48), (0, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_gradients_equal_those_of_a_plain_layer(
    dtype: torch.dtype, shape: tuple[int, ...], bias: bool
) -> None:
    plain, packed = layers(dtype, bias)
    inputs = torch.randn(shape).to(dtype)
    output_gradient = torch.randn(*shape[:-1], 80).to(dtype)
    results = []
    for layer in (plain, packed):
        leaf = inputs.clone().requires_grad_(True)
        outputs = layer(leaf)
        outputs.backward(output_gradient)
        assert leaf.grad is not None
        results.append((outputs.detach(), leaf.grad))
    (expected, expected_gradient), (computed, computed_gradient) = results
    torch.testing.assert_close(computed, expected)
    torch.testing.assert_close(computed_gradient, expected_gradient)
    if dtype == torch.bfloat16:
        assert torch.equal(computed, expected)
    with torch.inference_mode():
        torch.testing.assert_close(packed(inputs), plain(inputs))


def test_inputs_may_be_noncontiguous() -> None:
    plain, packed = layers(torch.float32)
    inputs = torch.randn(48, 9).T
    torch.testing.assert_close(packed(inputs), plain(inputs))
    expanded = torch.ones(1).expand(9, 80)
    torch.testing.assert_close(packed.input_gradient(expanded), expanded @ plain.weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_keeps_its_logits_names_and_tied_weights(tiny_base: Path, dtype: torch.dtype) -> None:
    model, reference = (load_model(tiny_base, "cpu", dtype=dtype) for _ in range(2))
    model.requires_grad_(False)
    assert pack_frozen(model, trains=False) is True
    assert isinstance(model.get_output_embeddings(), FrozenLinear)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, reference(IDS).logits)
    weights = reference.state_dict()
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_trainable_layers_are_not_packed(tiny_base: Path) -> None:
    model = load_model(tiny_base, "cpu").requires_grad_(False)
    trainable = model.model.layers[0].mlp.up_proj.requires_grad_(True)
    pack_frozen(model, trains=True)
    assert type(trainable) is nn.Linear
    model(IDS, labels=IDS).loss.backward()
    assert float(trainable.weight.grad.abs().max()) > 0


@pytest.mark.parametrize(("sides", "missing", "done"), [(1, 1, False), (1, 0, True), (2, 1, False), (2, 0, True)])
def test_nothing_is_packed_if_memory_is_short(
    sides: int, missing: int, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = nn.Sequential(nn.Linear(8, 4)).requires_grad_(False)
    free = psutil.virtual_memory()._replace(available=2 * sides * 8 * 4 * 4 - missing)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert pack_frozen(model, trains=sides == 2) is done
    assert isinstance(model[0], FrozenLinear) is done


def test_bf16_layers_are_not_packed_without_bf16_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.models.cpu.packed_linear.onednn_has_bf16", lambda: False)
    model = nn.Sequential(nn.Linear(8, 4, dtype=torch.bfloat16), nn.Linear(4, 2)).requires_grad_(False)
    assert pack_frozen(model, trains=False) is True
    assert [type(layer) for layer in model] == [nn.Linear, FrozenLinear]


def test_a_packed_layer_cannot_be_copied() -> None:
    _, packed = layers(torch.float32)
    with pytest.raises(TypeError, match="load the model again"):
        copy.deepcopy(packed)
