"""Generate the answers to a batch of prompts token by token, without computing rows that are finished.

transformers' `generate` computes every row until the last one is finished. Here rows that have written a stop token are
dropped once enough of them have. At temperature 0 the tokens are those of `generate`. Sampled tokens are the same until
the first rows are dropped.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from ft_pipeline.models.decoding.batch_state import BatchState
from ft_pipeline.models.decoding.kv_cache import has_plain_cache
from ft_pipeline.models.generation_config import COMPUTING_KEYS
from ft_pipeline.models.model_structure import causal_lm

_MAX_FINISHED_SHARE = 0.25
"""Finished rows are dropped when they are this share of the batch. Dropping copies the cache of the remaining rows."""
_GENERATION_METHODS = (
    "generate",
    "_sample",
    "_prefill",
    "prepare_inputs_for_generation",
    "_prepare_position_ids_for_generation",
    "_update_model_kwargs_for_generation",
    "_prepare_cache_for_generation",
)
"""Methods of transformers' generation that a model must not override."""
_FORWARD_ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep"}
"""Arguments that the forward method of a model must accept."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded to the same length."""

    ids: Tensor
    """Token ids [rows, tokens]."""
    mask: Tensor
    """[rows, tokens]: 0 for padding, else 1; 1 for the last token of each row."""
    pad_token_id: int
    shared_tokens: int = 0
    """Number of first tokens that all rows share and that `cache` contains."""
    cache: Any = None
    """Cache of the shared tokens, for one row."""
    copies: int = 1
    """Number of answers to each prompt. The prompt is processed once."""
    uniforms: Tensor | None = None
    """[answers, new tokens], from 0 to 1: what each sampled token is chosen by (`choose_tokens`). None: torch's default
    generator chooses."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when an answer ends."""

    stop_token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy. Otherwise tokens are sampled."""


def supports_token_loop(model: Any) -> bool:
    """Whether generate_tokens can replace transformers' `generate` for `model` (a causal LM, or an adapter on one).

    False if the model caches more than keys and values, if it overrides a part of `generate`, or if its generation
    config says how to compute.
    """
    causal = causal_lm(model)
    kind = type(causal)
    return (
        has_plain_cache(causal)
        and inspect.signature(kind.forward).parameters.keys() >= _FORWARD_ARGUMENTS
        and all(getattr(kind, name, None) is getattr(GenerationMixin, name) for name in _GENERATION_METHODS)
        and not _says_how_to_compute(causal.generation_config)
        and not _switches_expert_kernel(causal)
    )


@torch.inference_mode()
def generate_tokens(model: Any, batch: PromptBatch, decoding: Decoding) -> list[list[int]]:
    """Return the new token ids of each answer, up to and including the first stop token. The answers to a prompt follow
    each other.

    `model` must be one that supports_token_loop accepts.
    """
    answers: list[list[int]] = [[] for _ in range(len(batch.ids) * batch.copies)]
    row_answers = list(range(len(answers)))  # the index of the answer that each row writes
    finished: set[int] = set()
    state = BatchState(model, batch.cache, batch.mask, decoding.max_new_tokens)
    tokens, uniforms = batch.ids[:, batch.shared_tokens :], batch.uniforms
    for step in range(decoding.max_new_tokens):
        logits = state.forward(tokens)[:, -1]
        if step == 0 and batch.copies > 1:
            state.repeat_rows(batch.copies)
            logits = logits.repeat_interleave(batch.copies, dim=0)
        numbers = None if uniforms is None else uniforms[:, step]
        next_tokens = choose_tokens(logits.float(), decoding.temperature, numbers)
        for answer, token in zip(row_answers, next_tokens.tolist(), strict=True):
            if answer not in finished:
                answers[answer].append(token)
                if token in decoding.stop_token_ids:
                    finished.add(answer)
        unfinished_rows = [row for row, answer in enumerate(row_answers) if answer not in finished]
        if not unfinished_rows:
            break
        if len(unfinished_rows) <= (1 - _MAX_FINISHED_SHARE) * len(row_answers):
            kept_rows = torch.tensor(unfinished_rows, device=next_tokens.device)
            state.keep_rows(kept_rows)
            row_answers, next_tokens = [row_answers[row] for row in unfinished_rows], next_tokens[kept_rows]
            uniforms = None if uniforms is None else uniforms[kept_rows]
        tokens = next_tokens[:, None]
    return answers


def choose_tokens(logits: Tensor, temperature: float, uniforms: Tensor | None = None) -> Tensor:
    """Return the next token of each row: logits [rows, vocabulary] → [rows].

    uniforms: a number from 0 to 1 for each row [rows]. It chooses the first token at which the sum of probabilities is
    above it, so that the same number gives the same token whatever the other rows are.
    """
    if temperature == 0:
        return logits.argmax(-1)
    if uniforms is None:
        return torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)
    sums = torch.softmax(logits / temperature, -1).cumsum(-1, dtype=torch.float64)
    targets = uniforms.to(sums)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, targets, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def _says_how_to_compute(config: GenerationConfig) -> bool:
    values = {key: getattr(config, key) for key in COMPUTING_KEYS}
    ineffective = {"use_cache": True, "disable_compile": False}
    return any(value not in (None, ineffective.get(key)) for key, value in values.items())


def _switches_expert_kernel(causal: Any) -> bool:
    """Whether `generate` replaces the kernel of a mixture of experts while it decodes: grouped_mm, except on a CPU."""
    return causal.device.type != "cpu" and "grouped_mm" in causal.get_experts_implementation().values()
