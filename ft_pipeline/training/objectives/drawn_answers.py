"""Answers that a model in training draws, with the weights that it has now."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ft_pipeline.errors import UserError
from ft_pipeline.models.attention import padded_attention
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.decoding.generate import generate_ids
from ft_pipeline.models.decoding.prefix_cache import Contexts
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.loss import evaluation_mode


def prompt_ids(row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a row of the training data before its answer."""
    begin = next(position for position, label in enumerate(row["labels"]) if label != MASKED)
    ids: list[int] = row["input_ids"][:begin]
    return ids


def require_room(
    rows: Sequence[Mapping[str, Any]], model: Any, max_length: int, section: str, max_new_tokens: int
) -> None:
    """Raise UserError if the longest prompt with an own answer is longer than a row may be, or than the context.

    section: that of the experiment in which `max_new_tokens` is set.
    """
    longest = max(len(prompt_ids(row)) for row in rows)
    window = context_window(model.config) or max_length
    if longest + max_new_tokens <= min(max_length, window):
        return
    limit, fix = f"training.max_length: {max_length}", "Raise it, lower max_new_tokens, or remove the row."
    if window < max_length:
        limit, fix = f"the context of {window}", "Lower max_new_tokens, or remove the row."
    raise UserError(
        f"The longest prompt has {longest} tokens, which with {section}.max_new_tokens: {max_new_tokens} is more than "
        f"{limit}. {fix}"
    )


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the answers of an optimizer step: the same whether the training was resumed or not."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4], "big")


def draw_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    *,
    batch_size: int,
    seed: int,
    copies: int = 1,
) -> list[list[int]]:
    """Return the tokens of answers of a model in training, the stop token included: `copies` to each prompt.

    Only the seed, the prompt and the number of the copy choose the tokens of a sampled answer. Rank and batch do not.
    torch's generators have the same state afterwards.
    """
    samples = decoding.temperature > 0
    numbers = [draw_numbers(seed, prompt, copies, decoding.max_new_tokens) for prompt in prompts] if samples else []
    generated: dict[int, list[int]] = {}
    with (
        torch.random.fork_rng(),
        evaluation_mode(model),
        without_compiled_code(),
        padded_attention(model),
        compute_autocast(model),
    ):
        batches = generate_ids(
            Contexts(model, prompts),
            tokenizer,
            decoding,
            batch_size=batch_size,
            seed=seed,
            copies=copies,
            uniforms=torch.cat(numbers) if numbers else None,
        )
        for batch in batches:
            generated |= batch
    return [generated[index] for index in range(len(prompts) * copies)]


def draw_numbers(seed: int, prompt: Sequence[int], copies: int, tokens: int) -> Tensor:
    """Return the numbers from 0 to 1 that choose the tokens of the answers to a prompt [copies, tokens]."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt))}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(copies, tokens, generator=generator, dtype=torch.float64)
