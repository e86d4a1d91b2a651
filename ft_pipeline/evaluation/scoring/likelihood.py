"""Log-likelihoods of targets, in batches: logits for target tokens only, shared prefixes computed once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ft_pipeline.models.decoding.batch_state import BatchState
from ft_pipeline.models.decoding.prefix_cache import Contexts

Pair = tuple[list[int], list[int]]
"""Token ids of a context (at least one) and of the target that follows it (at least one)."""

_LOGITS = 100_000_000
"""Maximum number of logits in a batch: 200 MB in 16 bit."""
_CHUNK = 512
"""Positions that are widened to 32 bit at a time."""


@torch.inference_mode()
def target_log_likelihoods(
    model: Any, pairs: Sequence[Pair], *, batch_size: int, on_done: Callable[[int], None] = lambda done: None
) -> list[tuple[float, bool]]:
    """Return per pair the summed log probability (nats) of the target, and whether greedy decoding would write it.

    on_done: called with the number of pairs in each finished batch.
    """
    results: dict[int, tuple[float, bool]] = {}
    contexts = Contexts(model, [context for context, _ in pairs])
    for group in contexts.groups():
        rest = {index: (contexts.token_ids[index][group.prefix_length :], pairs[index][1]) for index in group.indices}
        for batch in _batches(contexts.model, rest, contexts.limit_batch_size(batch_size)):
            scored = _score(contexts.model, [rest[index] for index in batch], group.cache, group.prefix_length)
            results.update(zip(batch, scored, strict=True))
            on_done(len(batch))
    return [results[index] for index in range(len(pairs))]


def _batches(model: Any, rest: dict[int, Pair], batch_size: int) -> list[list[int]]:
    """Return indices in batches of similar length, longest first, of at most `batch_size` rows and `_LOGITS` logits."""
    most_positions = max(1, _LOGITS // model.config.get_text_config().vocab_size)
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(rest, key=lambda index: (-len(rest[index][0]) - len(rest[index][1]), index)):
        target = len(rest[index][1])
        rows = len(batches[-1]) + 1 if batches else 0
        if not batches or rows > batch_size or rows * max(widest, target) > most_positions:
            batches.append([])
            widest = 0
        batches[-1].append(index)
        widest = max(widest, target)
    return batches


def _score(model: Any, rows: Sequence[Pair], cache: Any, prefix: int) -> list[tuple[float, bool]]:
    sequences = [context + target[:-1] for context, target in rows]
    width = max(map(len, sequences))
    padding = [width - len(sequence) for sequence in sequences]
    device = model.device
    # Left padding: the last position of every row is its last target, so that only the last logits are needed.
    ids = torch.tensor([[0] * pad + sequence for pad, sequence in zip(padding, sequences, strict=True)], device=device)
    mask = torch.tensor([[1] * prefix + [0] * pad + [1] * (width - pad) for pad in padding], device=device)
    keep = max(len(target) for _, target in rows)
    if cache is None:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep
        ).logits
    else:
        logits = BatchState(model, cache, mask).forward(ids, keep)
    return [_score_row(logits[row, -len(target) :], target) for row, (_, target) in enumerate(rows)]


def _score_row(logits: torch.Tensor, target: list[int]) -> tuple[float, bool]:
    """Return the result of one row. logits: (target tokens, vocabulary), the distribution before each target token."""
    wanted = torch.tensor(target, device=logits.device)
    total = 0.0
    for part, ids in zip(logits.split(_CHUNK), wanted.split(_CHUNK), strict=True):
        wide = part.float()
        chosen = wide.gather(1, ids[:, None]).squeeze(1)
        total += float((chosen - wide.logsumexp(dim=-1)).double().sum())
    return total, bool((logits.argmax(dim=-1) == wanted).all())
