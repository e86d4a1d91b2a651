"""Read the logits that predict targets after their contexts, in batches, with shared prefixes computed once."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ft_pipeline.models.decoding.batch_state import BatchState
from ft_pipeline.models.decoding.prefix_cache import Contexts

Pair = tuple[list[int], list[int]]
"""Token ids of a context (at least one) and of the target that follows it (at least one)."""
Result = TypeVar("Result")
_MAX_LOGITS = 100_000_000
"""Maximum number of logits in a batch: 200 MB in 16 bit."""


@torch.inference_mode()
def read_targets(
    model: Any,
    pairs: Sequence[Pair],
    read: Callable[[torch.Tensor, list[int]], Result],
    *,
    batch_size: int,
    report_done: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Return what `read` returns for each pair.

    read: gets the logits [target tokens, vocabulary] that predict a target, and the target. report_done: called with
    the number of pairs in each finished batch.
    """
    results: dict[int, Result] = {}
    contexts = Contexts(model, [context for context, _ in pairs])
    for group in contexts.groups():
        remaining = {
            index: (contexts.token_ids[index][group.prefix_length :], pairs[index][1]) for index in group.indices
        }
        for batch in _batches(contexts.model, remaining, contexts.limit_batch_size(batch_size)):
            rows = [remaining[index] for index in batch]
            logits = _target_logits(contexts.model, rows, group.cache, group.prefix_length)
            for row, index in enumerate(batch):
                target = pairs[index][1]
                results[index] = read(logits[row, -len(target) :], target)
            report_done(len(batch))
    return [results[index] for index in range(len(pairs))]


def _batches(model: Any, pairs: dict[int, Pair], batch_size: int) -> list[list[int]]:
    """Return keys of `pairs` in batches of similar length, longest first.

    A batch has at most `batch_size` rows and `_MAX_LOGITS` logits.
    """
    max_positions = max(1, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    batches: list[list[int]] = []
    longest_target = 0
    for index in sorted(pairs, key=lambda index: (-len(pairs[index][0]) - len(pairs[index][1]), index)):
        target_length = len(pairs[index][1])
        row_count = len(batches[-1]) + 1 if batches else 0
        if not batches or row_count > batch_size or row_count * max(longest_target, target_length) > max_positions:
            batches.append([])
            longest_target = 0
        batches[-1].append(index)
        longest_target = max(longest_target, target_length)
    return batches


def _target_logits(model: Any, rows: Sequence[Pair], cache: Any, prefix_length: int) -> torch.Tensor:
    """Return logits [rows, positions, vocabulary] of a batch. The last positions of a row predict its target.

    rows: the pairs without the prefix of this length, whose keys are in `cache`.
    """
    sequences = [context + target[:-1] for context, target in rows]
    width = max(map(len, sequences))
    padding = [width - len(sequence) for sequence in sequences]
    device = model.device
    # Left padding: the last position of every row is its last target, so that only the last logits are needed.
    ids = torch.tensor([[0] * pad + sequence for pad, sequence in zip(padding, sequences, strict=True)], device=device)
    mask = torch.tensor([[1] * prefix_length + [0] * pad + [1] * (width - pad) for pad in padding], device=device)
    logits_to_keep = max(len(target) for _, target in rows)
    if cache is None:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits: torch.Tensor = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=logits_to_keep
        ).logits
        return logits
    return BatchState(model, cache, mask).forward(ids, logits_to_keep)
