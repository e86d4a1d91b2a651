"""Answers token by token for a batch of prompts: what transformers' `generate` writes, without the rows that are done.

A row that has written a stop token leaves the batch when enough others have; `generate` computes it to the end.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from ft_pipeline.models.kv_cache import keeps_all
from ft_pipeline.models.parts import causal_lm, reads_all_before
from ft_pipeline.models.reading import Reading

_LEAVING = 0.25
"""Share of a batch's rows that are done at which they leave it; each time, the caches of the others move up."""
_HEEDED = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens"),
    *("transformers_version", "_from_model_config"),
}
"""Keys of a generation config that are about nothing else than what `Batch` and `Decoding` say."""
_SHARED = (
    *("generate", "_sample", "_prefill", "prepare_inputs_for_generation"),
    *("_prepare_position_ids_for_generation", "_update_model_kwargs_for_generation", "_prepare_cache_for_generation"),
)
"""Methods of generation of which a model must have no version of its own."""
_INPUTS = {"input_ids", "attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep"}


@dataclass(frozen=True)
class Batch:
    """Prompts of equal length, padded."""

    ids: Tensor
    """[rows, tokens]"""
    mask: Tensor
    """[rows, tokens], 0 at padding; the last token of each row is its own."""
    padding: int
    """The id that padding is written with."""
    shared: int = 0
    """How many first tokens all rows share, already read into `cache`."""
    cache: Any = None


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when an answer ends."""

    stops: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy. Sampling draws from torch's default generator, for the rows that are left."""


def writes_alike(model: Any) -> bool:
    """Whether this loop writes what transformers' `generate` would with `model` (a causal LM, or an adapter on it).

    Not where its cache is more than keys and values of all tokens, where it has a way of its own to generate, or where
    its generation config asks for more (a repetition penalty, tokens never to write, beams).
    """
    causal = causal_lm(model)
    kind = type(causal)
    return (
        reads_all_before(causal)
        and keeps_all(causal)
        and inspect.signature(kind.forward).parameters.keys() >= _INPUTS
        and all(getattr(kind, name, None) is getattr(GenerationMixin, name) for name in _SHARED)
        and not _asks_for_more(causal.generation_config)
        and not _changes_for_decoding(causal)
    )


def _asks_for_more(config: GenerationConfig) -> bool:
    """Whether a model's own generation config holds more than we heed; what is not known here may be anything."""
    usual = {
        **GenerationConfig._get_default_generation_params(),
        "use_cache": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }
    own = {key: value for key, value in config.to_diff_dict().items() if key not in _HEEDED and value is not None}
    return any(key not in usual or value != usual[key] for key, value in own.items())


def _changes_for_decoding(causal: Any) -> bool:
    """Whether `generate` has the experts of a mixture computed in another way while it decodes, as on a GPU."""
    return causal.device.type != "cpu" and "grouped_mm" in causal.get_experts_implementation().values()


@torch.inference_mode()
def write(model: Any, batch: Batch, decoding: Decoding) -> list[list[int]]:
    """New ids per prompt, up to the first stop token, which is the last of them. For models that `writes_alike`."""
    answers: list[list[int]] = [[] for _ in batch.ids]
    rows = list(range(len(answers)))  # which prompt stands in which row
    done: set[int] = set()
    reading = Reading(model, batch.cache, batch.mask, decoding.max_new_tokens)
    tokens = batch.ids[:, batch.shared :]
    for _ in range(decoding.max_new_tokens):
        chosen = _choose(reading.read(tokens)[:, -1].float(), decoding.temperature)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row not in done:
                answers[row].append(token)
                done |= {row} if token in decoding.stops else set()
        left = [place for place, row in enumerate(rows) if row not in done]
        if not left:
            break
        if len(left) <= (1 - _LEAVING) * len(rows):
            places = torch.tensor(left, device=chosen.device)
            reading.keep(places)
            rows, chosen = [rows[place] for place in left], chosen[places]
        tokens = chosen[:, None]
    return answers


def _choose(logits: Tensor, temperature: float) -> Tensor:
    """logits [rows, vocabulary] → [rows]"""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)
