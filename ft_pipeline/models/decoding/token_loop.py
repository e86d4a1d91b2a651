"""Generation token by token for a batch: the tokens of transformers' `generate`, without computing finished rows.

Rows that have written a stop token are dropped once enough of them have. `generate` computes them to the end.
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

_FINISHED = 0.25
"""Share of finished rows at which they are dropped. Dropping copies the cache of the remaining rows."""
_HANDLED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens"),
    *("transformers_version", "_from_model_config"),
}
"""Keys of a generation config that `Batch` and `Decoding` replace, or that have no effect."""
_GENERATION_METHODS = (
    *("generate", "_sample", "_prefill", "prepare_inputs_for_generation"),
    *("_prepare_position_ids_for_generation", "_update_model_kwargs_for_generation", "_prepare_cache_for_generation"),
)
"""Methods of transformers' generation that a model must not override."""
_INPUTS = {"input_ids", "attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep"}


@dataclass(frozen=True)
class Batch:
    """Prompts padded to the same length."""

    ids: Tensor
    """[rows, tokens]"""
    mask: Tensor
    """[rows, tokens]: 0 for padding, else 1; 1 for the last token of each row."""
    padding: int
    """Id of the pad token."""
    shared: int = 0
    """Number of first tokens that all rows share and that `cache` contains."""
    cache: Any = None
    """Cache of the shared tokens, for one row."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when an answer ends."""

    stops: Sequence[int]
    """Ids of the stop tokens."""
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy. Otherwise tokens are sampled with torch's default generator, for the rows still in the batch."""


def supports(model: Any) -> bool:
    """Whether `write` gives the tokens of transformers' `generate` for `model` (a causal LM, or an adapter on one).

    False if the model caches more than keys and values, if it overrides a part of `generate`, or if its generation
    config asks for something else (a repetition penalty, suppressed tokens, beams).
    """
    causal = causal_lm(model)
    kind = type(causal)
    return (
        has_plain_cache(causal)
        and inspect.signature(kind.forward).parameters.keys() >= _INPUTS
        and all(getattr(kind, name, None) is getattr(GenerationMixin, name) for name in _GENERATION_METHODS)
        and not _needs_processors(causal.generation_config)
        and not _switches_experts(causal)
    )


@torch.inference_mode()
def write(model: Any, batch: Batch, decoding: Decoding) -> list[list[int]]:
    """New ids per prompt, up to and including the first stop token. For models that `supports` accepts."""
    answers: list[list[int]] = [[] for _ in batch.ids]
    prompts = list(range(len(answers)))  # which prompt each row of the batch answers
    finished: set[int] = set()
    state = BatchState(model, batch.cache, batch.mask, decoding.max_new_tokens)
    tokens = batch.ids[:, batch.shared :]
    for _ in range(decoding.max_new_tokens):
        chosen = _choose(state.forward(tokens)[:, -1].float(), decoding.temperature)
        for prompt, token in zip(prompts, chosen.tolist(), strict=True):
            if prompt not in finished:
                answers[prompt].append(token)
                if token in decoding.stops:
                    finished.add(prompt)
        left = [row for row, prompt in enumerate(prompts) if prompt not in finished]
        if not left:
            break
        if len(left) <= (1 - _FINISHED) * len(prompts):
            rows = torch.tensor(left, device=chosen.device)
            state.keep_rows(rows)
            prompts, chosen = [prompts[row] for row in left], chosen[rows]
        tokens = chosen[:, None]
    return answers


def _choose(logits: Tensor, temperature: float) -> Tensor:
    """The next token of each row: logits [rows, vocabulary] → [rows]."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)


def _needs_processors(config: GenerationConfig) -> bool:
    """Whether a model's generation config asks for more than `_HANDLED`. Unknown keys count: they may mean anything."""
    neutral = {
        **GenerationConfig._get_default_generation_params(),
        "use_cache": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }
    given = {key: value for key, value in config.to_diff_dict().items() if key not in _HANDLED and value is not None}
    return any(key not in neutral or value != neutral[key] for key, value in given.items())


def _switches_experts(causal: Any) -> bool:
    """Whether `generate` computes the experts of a mixture in another way while decoding, as it does on a GPU."""
    return causal.device.type != "cpu" and "grouped_mm" in causal.get_experts_implementation().values()
