"""Preallocated caches: the keys and values of transformers' DynamicCache, bit for bit, without its copies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import Cache

from ft_pipeline.models.decoding.kv_cache import PreallocatedLayer, batch_cache, has_plain_cache
from ft_pipeline_tests.training.architectures import tiny_model_of

IDS = torch.tensor([[0, 0, 0, 9, 30], [5, 9, 11, 40, 7], [0, 60, 61, 62, 63]])
MASK = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])


def greedy_logits(model: Any, cache: Cache, ids: torch.Tensor, mask: Tensor, steps: int = 12) -> list[torch.Tensor]:
    """The logits of each step of greedy decoding."""
    logits = []
    with torch.inference_mode():
        for _ in range(steps):
            logits.append(model(input_ids=ids, attention_mask=mask, cache=cache, use_cache=True).logits[:, -1])
            ids = logits[-1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "full"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_equal_those_of_a_dynamic_cache_bit_for_bit(
    tiny_base: Path, dtype: torch.dtype, mask: Tensor, attention: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=dtype, attn_implementation=attention).eval()
    preallocated = batch_cache(model, None, rows=3, capacity=30)
    expected = greedy_logits(model, DynamicCache(config=model.config), IDS, mask)
    ours = greedy_logits(model, preallocated, IDS, mask)
    assert all(torch.equal(logits, wanted) for logits, wanted in zip(ours, expected, strict=True))
    assert preallocated.get_seq_length() == 5 + 11
    address = preallocated.layers[0].keys.data_ptr()
    greedy_logits(model, preallocated, IDS[:, :1], torch.cat([mask, mask.new_ones(3, 12)], dim=1), steps=1)
    assert preallocated.layers[0].keys.data_ptr() == address, "the cache was not copied"


def test_rows_are_removed_in_place() -> None:
    states = [torch.randn(5, 2, tokens, 4) for tokens in (3, 1, 2)]
    layer, expected = PreallocatedLayer(capacity=8), None
    for state in states[:2]:
        layer.update(state, -state)
    address = layer.keys.data_ptr()
    rows = torch.tensor([0, 2, 4])
    layer.batch_select_indices(rows)
    keys, values = layer.update(states[2][rows], -states[2][rows])
    expected = torch.cat([state[rows] for state in states], dim=2)
    assert torch.equal(keys, expected) and torch.equal(values, -expected)
    assert keys.data_ptr() == address


def test_beams_are_reordered_and_tokens_are_removed() -> None:
    state = torch.randn(3, 2, 4, 4)
    layer = PreallocatedLayer(capacity=6)
    layer.update(state, -state)
    order = torch.tensor([2, 2, 0])
    layer.reorder_cache(order)
    layer.crop(-1)
    assert torch.equal(layer.keys, state[order][:, :, :3]) and torch.equal(layer.values, -state[order][:, :, :3])


def test_each_row_begins_with_the_prefix(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    prefix = DynamicCache(config=model.config)
    greedy_logits(model, prefix, torch.tensor([[5, 9, 11]]), torch.ones(1, 3, dtype=torch.long), steps=1)
    cache = batch_cache(model, prefix, rows=2, capacity=9)
    for layer, prefix_layer in zip(cache.layers, prefix.layers, strict=True):
        assert torch.equal(layer.keys, prefix_layer.keys.repeat(2, 1, 1, 1))
        assert torch.equal(layer.values, prefix_layer.values.repeat(2, 1, 1, 1))
    assert prefix.get_seq_length() == cache.get_seq_length() == 3


@pytest.mark.parametrize(
    ("kind", "plain"), [("qwen3", True), ("gpt2", True), ("gemma3_text", False), ("mistral", False)]
)
def test_a_model_with_a_sliding_window_keeps_the_cache_of_transformers(kind: str, plain: bool, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_of(kind, tmp_path), dtype=torch.float32).eval()
    assert has_plain_cache(model) is plain
    cache = batch_cache(model, None, rows=1, capacity=4)
    assert (type(cache) is DynamicCache) is not plain
