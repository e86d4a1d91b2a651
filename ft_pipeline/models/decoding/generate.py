"""Generate answers with a model, in batches."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ft_pipeline.job import Reporter
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.decoding.kv_cache import batch_cache, has_plain_cache
from ft_pipeline.models.decoding.prefix_cache import ContextGroup, Contexts
from ft_pipeline.models.decoding.token_loop import (
    Decoding,
    PromptBatch,
    choose_tokens,
    generate_tokens,
    supports_token_loop,
)
from ft_pipeline.models.generation_config import COMPUTING_KEYS
from ft_pipeline.models.model_structure import causal_lm


@dataclass(frozen=True)
class Generation:
    """One answer, without its stop token."""

    text: str
    """Without control tokens."""
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    answer_tokens: int
    """Generated tokens, the stop token included."""
    raw: str
    """The text with its control tokens, which some templates write in calls of tools."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    report: Reporter | None = None,
) -> list[Generation]:
    """Answer each prompt (already rendered with the chat template), in the given order. Temperature 0 is greedy.

    Of the model's own generation config, only the stop tokens count (generation_config.py)."""
    contexts = Contexts(model, [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts])
    decoding = Decoding(stop_token_ids(tokenizer, model), max_new_tokens, temperature)
    answers: dict[int, Generation] = {}
    started = time.monotonic()
    for generated in generate_ids(contexts, tokenizer, decoding, batch_size=batch_size, seed=seed):
        for index, ids in generated.items():
            answers[index] = to_generation(tokenizer, len(contexts.token_ids[index]), ids, decoding.stop_token_ids)
        if report is not None:
            tokens = sum(answer.answer_tokens for answer in answers.values())
            report.progress(len(answers), len(prompts), tokens_per_second=tokens / (time.monotonic() - started))
    return [answers[index] for index in range(len(prompts))]


def generate_ids(
    contexts: Contexts,
    tokenizer: Any,
    decoding: Decoding,
    *,
    batch_size: int,
    seed: int,
    copies: int = 1,
    uniforms: torch.Tensor | None = None,
) -> Iterator[dict[int, list[int]]]:
    """Yield the new token ids of each batch of answers, by the index of the answer. The stop token is included.

    A common prefix of contexts is computed once. Then contexts of similar length share a batch (left padding). The
    longest come first, so that an out-of-memory error occurs at once. torch's generator is seeded.

    copies: number of answers to each context. Those to the context i begin at the index i * copies.
    uniforms: numbers [answers, new tokens] that choose the sampled tokens instead of the generator.
    """
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else decoding.stop_token_ids[0]
    generate_batch = generate_tokens if supports_token_loop(contexts.model) else _generate_with_transformers
    torch.manual_seed(seed)
    for group, indices in _batches(contexts, max(1, batch_size // copies)):
        rows = [contexts.token_ids[index] for index in indices]
        answers = [index * copies + number for index in indices for number in range(copies)]
        batch = _pad_batch(rows, group, pad_token_id, contexts.model.device)
        chosen_by = None if uniforms is None else uniforms[answers].to(batch.ids.device)
        batch = replace(batch, copies=copies, uniforms=chosen_by)
        yield dict(zip(answers, generate_batch(contexts.model, batch, decoding), strict=True))


def _batches(contexts: Contexts, batch_size: int) -> Iterator[tuple[ContextGroup, list[int]]]:
    """Yield each batch as its group and the indices of its contexts. In a group, the longest contexts come first."""
    rows = contexts.limit_batch_size(batch_size)
    for group in contexts.groups():
        order = sorted(group.indices, key=lambda index: (-len(contexts.token_ids[index]), index))
        for begin in range(0, len(order), rows):
            yield group, order[begin : begin + rows]


def _pad_batch(prompts: list[list[int]], group: ContextGroup, pad_token_id: int, device: torch.device) -> PromptBatch:
    """Pad between the shared tokens, which must have no gap, and the rest of each prompt."""
    width, shared = max(map(len, prompts)), group.prefix_length
    ids = [prompt[:shared] + [pad_token_id] * (width - len(prompt)) + prompt[shared:] for prompt in prompts]
    mask = [[1] * shared + [0] * (width - len(prompt)) + [1] * (len(prompt) - shared) for prompt in prompts]
    return PromptBatch(
        torch.tensor(ids, device=device), torch.tensor(mask, device=device), pad_token_id, shared, group.cache
    )


@torch.inference_mode()
def _generate_with_transformers(model: Any, batch: PromptBatch, decoding: Decoding) -> list[list[int]]:
    """Do what generate_tokens does with transformers' `generate`, for models that supports_token_loop rejects."""
    ids, mask = (part.repeat_interleave(batch.copies, 0) for part in (batch.ids, batch.mask))
    rows, width = ids.shape
    causal = causal_lm(model)
    config = causal.generation_config
    default_cache = config.cache_implementation is None and config.use_cache is not False
    cache_argument = {}
    if batch.cache is not None or (default_cache and has_plain_cache(causal)):
        cache_argument["cache"] = batch_cache(causal, batch.cache, rows, width + decoding.max_new_tokens)
    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0 and batch.uniforms is not None:
        chosen = _ChosenTokens(batch.uniforms, width, decoding.temperature)
        sampling["logits_processor"] = LogitsProcessorList([chosen])
    elif decoding.temperature > 0:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    with _own_distribution(causal):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_token_ids),
            pad_token_id=batch.pad_token_id,
            **cache_argument,
            **sampling,
        )
    return [up_to_stop_token(row, decoding.stop_token_ids) for row in output[:, width:].tolist()]


@contextmanager
def _own_distribution(causal: Any) -> Iterator[None]:
    """Let the model answer from its own probabilities inside the context, without the penalties, limits and sampling of
    its generation config: `generate` would take each setting from there that it is not given."""
    configured = causal.generation_config
    causal.generation_config = GenerationConfig(**{key: getattr(configured, key) for key in COMPUTING_KEYS})
    try:
        yield
    finally:
        causal.generation_config = configured


@dataclass(frozen=True)
class _ChosenTokens(LogitsProcessor):
    """Makes transformers' greedy search take the tokens that `choose_tokens` returns."""

    uniforms: torch.Tensor
    width: int
    """Tokens of the prompts."""
    temperature: float

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        tokens = choose_tokens(logits.float(), self.temperature, self.uniforms[:, ids.shape[1] - self.width])
        return torch.full_like(logits, float("-inf")).scatter_(1, tokens[:, None], 0.0)


def up_to_stop_token(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the token ids up to the first stop token, or all of them."""
    for position, token in enumerate(ids):
        if token in stop_ids:
            return ids[: position + 1]
    return ids


def to_generation(tokenizer: Any, prompt_tokens: int, ids: list[int], stop_ids: Sequence[int]) -> Generation:
    """Return the answer of these token ids, which may end with a stop token."""
    stopped = bool(ids) and ids[-1] in stop_ids
    text_ids = ids[:-1] if stopped else ids
    text = tokenizer.decode(text_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    raw = tokenizer.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Generation(text, "stop" if stopped else "length", prompt_tokens, len(ids), raw)
