"""Shared prefixes: which prompts share a prefix, and that sharing does not change the answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ft_pipeline.models.decoding import prefix_cache as prefix
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.decoding.prefix_cache import Contexts, group_by_prefix
from ft_pipeline.models.load import load_tokenizer

EXAMPLES = "You are a support agent. Sorry about the delay. Please send your order number. " * 3
QUESTIONS = ("Where is it?", "My package is late and tracking has not updated.", "Paris", "Can I return the shoes?")
PROMPTS = [*(EXAMPLES + question for question in QUESTIONS), "Something else entirely"]


@pytest.fixture
def model(tiny_base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


@pytest.fixture
def wrapped(model: Any) -> Any:
    """The model wrapped by PEFT, which forwards generation to it."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


def test_a_shared_prefix_leaves_at_least_one_token_of_each_context() -> None:
    contexts = [list(range(200))] * 20
    assert group_by_prefix(contexts) == [(199, list(range(20)))]
    assert group_by_prefix([[1, 2], [3]]) == [(0, [0, 1])]
    assert group_by_prefix([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("name", ["model", "wrapped"])
def test_a_shared_prefix_does_not_change_the_answers(
    name: str, batch_size: int, request: pytest.FixtureRequest, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = request.getfixturevalue(name), load_tokenizer(tiny_base)
    encoded = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    assert [length for length, _ in group_by_prefix(encoded)] == [0]
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size)
    monkeypatch.setattr(prefix, "_MIN_SAVED_TOKENS", 100)
    (length, members), (unshared_length, unshared_members) = group_by_prefix(encoded)
    assert (length >= 64, members, unshared_length, unshared_members) == (True, [0, 1, 2, 3], 0, [4])
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size) == plain
    assert len({answer.text for answer in plain}) > 1


def test_a_learned_prompt_is_the_shared_prefix_of_all_rows(model: Any) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    contexts = Contexts(get_peft_model(model, config), [[5, 6, 7], [8]])
    (group,) = contexts.groups()
    assert (group.prefix_length, group.indices, group.cache.get_seq_length()) == (4, [0, 1], 4)
    assert contexts.token_ids == [[0, 0, 0, 0, 5, 6, 7], [0, 0, 0, 0, 8]]
    assert contexts.model is model
