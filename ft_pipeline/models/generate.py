"""Answers from a model, in batches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ft_pipeline.job import Reporter
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.prefix import Contexts, repeated


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
    """Answer each prompt (already rendered with the chat template), in the order given; temperature 0 is greedy.

    What prompts begin with in common is read once. Then prompts of similar length share a batch (left padding), the
    longest first, so that a lack of memory shows at once.
    """
    contexts = Contexts(model, [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts])
    encoded = contexts.ids
    stops = stop_token_ids(tokenizer, model)
    together = contexts.together(batch_size)
    answers: dict[int, Generation] = {}
    torch.manual_seed(seed)
    started = time.monotonic()
    for group in contexts.groups():
        order = sorted(group.members, key=lambda index: (-len(encoded[index]), index))
        for begin in range(0, len(order), together):
            indices = order[begin : begin + together]
            batch = _Batch([encoded[index] for index in indices], group.length, group.cache)
            rows = _generate_batch(contexts.model, tokenizer, batch, stops, max_new_tokens, temperature)
            for index, ids in zip(indices, rows, strict=True):
                answers[index] = _finish(tokenizer, len(encoded[index]), ids, stops)
            if report is not None:
                written = sum(answer.answer_tokens for answer in answers.values())
                report.progress(len(answers), len(prompts), tokens_per_second=written / (time.monotonic() - started))
    return [answers[index] for index in range(len(prompts))]


@dataclass(frozen=True)
class _Batch:
    prompts: list[list[int]]
    shared: int
    """How many first tokens all of them share, already read into `cache`."""
    cache: Any


@torch.inference_mode()
def _generate_batch(
    model: Any, tokenizer: Any, batch: _Batch, stops: list[int], max_new_tokens: int, temperature: float
) -> list[list[int]]:
    """New ids per prompt, cut behind the first stop token."""
    width = max(map(len, batch.prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    # The padding stands behind the shared part, which is the same for all and has no gap.
    padded = [
        prompt[: batch.shared] + [pad] * (width - len(prompt)) + prompt[batch.shared :] for prompt in batch.prompts
    ]
    seen = [[1] * batch.shared + [0] * (width - len(p)) + [1] * (len(p) - batch.shared) for p in batch.prompts]
    ids, mask = torch.tensor(padded, device=model.device), torch.tensor(seen, device=model.device)
    reuse = {} if batch.cache is None else {"cache": repeated(batch.cache, len(batch.prompts))}
    # Null, not absent: the model's own generation config may hold sampling settings that are not ours.
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=pad,
        **reuse,
        **sampling,
    )
    return [_cut(row, stops) for row in output[:, width:].tolist()]


def _cut(ids: list[int], stops: list[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stops:
            return ids[: position + 1]
    return ids


def _finish(tokenizer: Any, prompt_tokens: int, ids: list[int], stops: list[int]) -> Generation:
    stopped = bool(ids) and ids[-1] in stops
    body = ids[:-1] if stopped else ids
    text = tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return Generation(text, "stop" if stopped else "length", prompt_tokens, len(ids))
