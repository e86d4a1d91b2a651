"""Generate answers with a model, in batches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ft_pipeline.job import Reporter
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.decoding.kv_cache import batch_cache, has_plain_cache
from ft_pipeline.models.decoding.prefix_cache import Contexts, Shared
from ft_pipeline.models.decoding.token_loop import Batch, Decoding, supports, write
from ft_pipeline.models.model_structure import causal_lm


@dataclass(frozen=True)
class Generation:
    """One answer, without its stop token."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    answer_tokens: int
    """Generated tokens, the stop token included."""


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

    A common prefix of prompts is read once. Then prompts of similar length share a batch (left padding), the longest
    first, so that an out-of-memory error occurs at once.
    """
    contexts = Contexts(model, [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts])
    encoded = contexts.ids
    decoding = Decoding(stop_token_ids(tokenizer, model), max_new_tokens, temperature)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else decoding.stops[0]
    together = contexts.together(batch_size)
    answers: dict[int, Generation] = {}
    write_batch = write if supports(contexts.model) else _write_with_transformers
    torch.manual_seed(seed)
    started = time.monotonic()
    for group in contexts.groups():
        order = sorted(group.members, key=lambda index: (-len(encoded[index]), index))
        for begin in range(0, len(order), together):
            indices = order[begin : begin + together]
            batch = _padded(contexts.model.device, [encoded[index] for index in indices], group, padding)
            for index, ids in zip(indices, write_batch(contexts.model, batch, decoding), strict=True):
                answers[index] = _finish(tokenizer, len(encoded[index]), ids, decoding.stops)
            if report is not None:
                written = sum(answer.answer_tokens for answer in answers.values())
                report.progress(len(answers), len(prompts), tokens_per_second=written / (time.monotonic() - started))
    return [answers[index] for index in range(len(prompts))]


def _padded(device: torch.device, prompts: list[list[int]], group: Shared, padding: int) -> Batch:
    """Pad between the shared tokens, which must have no gap, and the rest of each prompt."""
    width, shared = max(map(len, prompts)), group.length
    ids = [prompt[:shared] + [padding] * (width - len(prompt)) + prompt[shared:] for prompt in prompts]
    mask = [[1] * shared + [0] * (width - len(prompt)) + [1] * (len(prompt) - shared) for prompt in prompts]
    return Batch(torch.tensor(ids, device=device), torch.tensor(mask, device=device), padding, shared, group.cache)


@torch.inference_mode()
def _write_with_transformers(model: Any, batch: Batch, decoding: Decoding) -> list[list[int]]:
    """The same with transformers' `generate`, for models that `supports` refuses."""
    rows, width = batch.ids.shape
    causal = causal_lm(model)
    config = causal.generation_config
    default_cache = config.cache_implementation is None and config.use_cache is not False
    reuse = {}
    if batch.cache is not None or (default_cache and has_plain_cache(causal)):
        reuse["cache"] = batch_cache(causal, batch.cache, rows, width + decoding.max_new_tokens)
    # None, not absent: the model's own generation config may contain other sampling settings.
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if decoding.temperature > 0:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.stops),
        pad_token_id=batch.padding,
        **reuse,
        **sampling,
    )
    return [_cut(row, decoding.stops) for row in output[:, width:].tolist()]


def _cut(ids: list[int], stops: Sequence[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stops:
            return ids[: position + 1]
    return ids


def _finish(tokenizer: Any, prompt_tokens: int, ids: list[int], stops: Sequence[int]) -> Generation:
    stopped = bool(ids) and ids[-1] in stops
    body = ids[:-1] if stopped else ids
    text = tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return Generation(text, "stop" if stopped else "length", prompt_tokens, len(ids))
