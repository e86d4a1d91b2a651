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
from ft_pipeline.models.model_structure import causal_lm

_MAX_FINISHED_SHARE = 0.25
"""Finished rows are dropped when they are this share of the batch. Dropping copies the cache of the remaining rows."""
_HANDLED_KEYS = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "max_length",
    "max_new_tokens",
    "transformers_version",
    "_from_model_config",
}
"""Keys of a generation config that `PromptBatch` and `Decoding` replace, or that have no effect."""
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


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when an answer ends."""

    stop_token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy. Otherwise tokens are sampled with torch's default generator, for the rows still in the batch."""


def supports_token_loop(model: Any) -> bool:
    """Whether generate_tokens can replace transformers' `generate` for `model` (a causal LM, or an adapter on one).

    False if the model caches more than keys and values, if it overrides a part of `generate`, or if its generation
    config sets what generate_tokens does not implement (a repetition penalty, suppressed tokens, beams).
    """
    causal = causal_lm(model)
    kind = type(causal)
    return (
        has_plain_cache(causal)
        and inspect.signature(kind.forward).parameters.keys() >= _FORWARD_ARGUMENTS
        and all(getattr(kind, name, None) is getattr(GenerationMixin, name) for name in _GENERATION_METHODS)
        and not _needs_logits_processors(causal.generation_config)
        and not _switches_expert_kernel(causal)
    )


@torch.inference_mode()
def generate_tokens(model: Any, batch: PromptBatch, decoding: Decoding) -> list[list[int]]:
    """Return the new token ids of each prompt, up to and including the first stop token.

    `model` must be one that supports_token_loop accepts.
    """
    answers: list[list[int]] = [[] for _ in batch.ids]
    row_prompts = list(range(len(answers)))  # the index of the prompt that each row answers
    finished: set[int] = set()
    state = BatchState(model, batch.cache, batch.mask, decoding.max_new_tokens)
    tokens = batch.ids[:, batch.shared_tokens :]
    for _ in range(decoding.max_new_tokens):
        next_tokens = _choose_tokens(state.forward(tokens)[:, -1].float(), decoding.temperature)
        for prompt, token in zip(row_prompts, next_tokens.tolist(), strict=True):
            if prompt not in finished:
                answers[prompt].append(token)
                if token in decoding.stop_token_ids:
                    finished.add(prompt)
        unfinished_rows = [row for row, prompt in enumerate(row_prompts) if prompt not in finished]
        if not unfinished_rows:
            break
        if len(unfinished_rows) <= (1 - _MAX_FINISHED_SHARE) * len(row_prompts):
            kept_rows = torch.tensor(unfinished_rows, device=next_tokens.device)
            state.keep_rows(kept_rows)
            row_prompts, next_tokens = [row_prompts[row] for row in unfinished_rows], next_tokens[kept_rows]
        tokens = next_tokens[:, None]
    return answers


def _choose_tokens(logits: Tensor, temperature: float) -> Tensor:
    """Return the next token of each row: logits [rows, vocabulary] → [rows]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)


def _needs_logits_processors(config: GenerationConfig) -> bool:
    """Whether a generation config sets anything other than `_HANDLED_KEYS`, so that `generate` would process logits.

    An unknown key counts, because its effect is not known.
    """
    ineffective = {
        **GenerationConfig._get_default_generation_params(),
        "use_cache": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }
    settings = {
        key: value for key, value in config.to_diff_dict().items() if key not in _HANDLED_KEYS and value is not None
    }
    return any(key not in ineffective or value != ineffective[key] for key, value in settings.items())


def _switches_expert_kernel(causal: Any) -> bool:
    """Whether `generate` replaces the kernel of a mixture of experts while it decodes: grouped_mm, except on a CPU."""
    return causal.device.type != "cpu" and "grouped_mm" in causal.get_experts_implementation().values()
