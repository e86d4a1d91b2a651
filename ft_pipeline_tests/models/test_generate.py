"""Generation: order, stop tokens, and the same answers for any batch size."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_tokenizer

PROMPTS = ["My package", "Where can I change the delivery address of my order? It is late.", "Paris"]


@pytest.fixture(scope="module")
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


def test_a_batch_gives_the_answers_of_single_prompts(model, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=3)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=6, batch_size=1)[0] for prompt in PROMPTS]
    assert together == alone
    assert [answer.prompt_tokens for answer in together] == [len(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert all(answer.finish_reason == "length" and answer.answer_tokens == 6 for answer in together)


def test_a_stop_token_ends_an_answer(model, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    (endless,) = generate(model, tokenizer, ["Paris"], max_new_tokens=3, batch_size=1)
    assert (endless.finish_reason, endless.answer_tokens) == ("length", 3)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(3, len(tokenizer))]
    try:
        (stopped,) = generate(model, tokenizer, ["Paris"], max_new_tokens=3, batch_size=1)
    finally:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert (stopped.finish_reason, stopped.answer_tokens, stopped.text) == ("stop", 1, "")


def test_the_same_seed_samples_the_same_answers(model, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    first, again, other_seed = (
        generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=2, temperature=1.0, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other_seed


def test_the_raw_text_keeps_control_tokens_but_not_the_stop_token(model, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    answers = generate(model, tokenizer, PROMPTS * 4, max_new_tokens=300, batch_size=12, temperature=1.0, seed=3)
    assert any("<|im_start|>" in answer.raw for answer in answers)  # by chance, of 441 tokens
    for answer in answers:
        assert "<|im_end|>" not in answer.raw and "<|im_start|>" not in answer.text
