"""Read the logits that predict targets after their contexts, in batches. What contexts begin with in common is computed
once, and so is a context that several targets follow, as the choices of a question do.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from ft_pipeline.models.decoding.batch_state import BatchState
from ft_pipeline.models.decoding.kv_cache import has_plain_cache
from ft_pipeline.models.decoding.prefix_cache import ContextGroup, Contexts
from ft_pipeline.models.model_structure import causal_lm

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
    for batch in _logits_by_pair(model, pairs, batch_size):
        for index, logits in batch.items():
            results[index] = read(logits, pairs[index][1])
        report_done(len(batch))
    return [results[index] for index in range(len(pairs))]


class _Branches(NamedTuple):
    """A context and the pairs that begin with it."""

    context: list[int]
    pairs: list[int]
    """Indices of the pairs."""
    targets: list[list[int]]

    @property
    def longest_target(self) -> int:
        """In tokens."""
        return max(map(len, self.targets))


_Reader = Callable[[Any, list[_Branches], ContextGroup], list[torch.Tensor]]
"""Returns the logits [target tokens, vocabulary] of the targets of a batch. Its contexts are without the prefix."""


def _logits_by_pair(model: Any, pairs: Sequence[Pair], batch_size: int) -> Iterator[dict[int, torch.Tensor]]:
    """Yield the logits [target tokens, vocabulary] of each batch, by the index of the pair."""
    branches = list(_branches(pairs, batch_size if has_plain_cache(causal_lm(model)) else 1))
    contexts = Contexts(model, [branch.context for branch in branches])
    for group in contexts.groups():
        remaining = [
            branches[index]._replace(context=contexts.token_ids[index][group.prefix_length :])
            for index in group.indices
        ]
        for read, chosen in _by_reader(remaining):
            for batch in _batches(contexts.model, chosen, contexts.limit_batch_size(batch_size)):
                indices = [index for branch in batch for index in branch.pairs]
                yield dict(zip(indices, read(contexts.model, batch, group), strict=True))


def _branches(pairs: Sequence[Pair], most: int) -> Iterator[_Branches]:
    """Yield each context with the targets that follow it, `most` at a time."""
    followed_by: dict[tuple[int, ...], list[int]] = {}
    for index, (context, _) in enumerate(pairs):
        followed_by.setdefault(tuple(context), []).append(index)
    for same, indices in followed_by.items():
        for begin in range(0, len(indices), most):
            some = indices[begin : begin + most]
            yield _Branches(list(same), some, [pairs[index][1] for index in some])


def _batches(model: Any, branches: list[_Branches], batch_size: int) -> list[list[_Branches]]:
    """Return the branches in batches of similar length, longest first.

    A batch has at most `batch_size` targets and `_MAX_LOGITS` logits, unless one context alone has more.
    """
    max_positions = max(1, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    batches: list[list[_Branches]] = []
    longest_target = rows = 0
    for branch in sorted(branches, key=lambda branch: (-len(branch.context) - branch.longest_target, branch.pairs[0])):
        rows += len(branch.targets)
        longest_target = max(longest_target, branch.longest_target)
        if not batches or rows > batch_size or rows * longest_target > max_positions:
            batches.append([])
            rows, longest_target = len(branch.targets), branch.longest_target
        batches[-1].append(branch)
    return batches


def _by_reader(branches: list[_Branches]) -> list[tuple[_Reader, list[_Branches]]]:
    """Return contexts with one target, which one pass reads, and those with several, with what reads them."""
    one, several = ([branch for branch in branches if (len(branch.targets) == 1) is is_one] for is_one in (True, False))
    return [(_read_together, one), (_read_branches, several)]


def _read_together(model: Any, batch: list[_Branches], group: ContextGroup) -> list[torch.Tensor]:
    """Process each context with its one target. Return the logits of the targets."""
    targets = [branch.targets[0] for branch in batch]
    sequences = [branch.context + target[:-1] for branch, target in zip(batch, targets, strict=True)]
    ids, mask = _pad_left(sequences, group.prefix_length, model.device)
    logits_to_keep = max(map(len, targets))
    if group.cache is None:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=logits_to_keep
        ).logits
    else:
        logits = BatchState(model, group.cache, mask).forward(ids, logits_to_keep)
    return [row[-len(target) :] for row, target in zip(logits, targets, strict=True)]


def _read_branches(model: Any, batch: list[_Branches], group: ContextGroup) -> list[torch.Tensor]:
    """Process each context, then the targets that follow it. Return the logits of the targets."""
    targets = [target for branch in batch for target in branch.targets]
    ids, mask = _pad_left([branch.context for branch in batch], group.prefix_length, model.device)
    counts = torch.tensor([len(branch.targets) for branch in batch], device=model.device)
    longest = max(map(len, targets))
    state = BatchState(model, group.cache, mask, longest - 1)
    logits = state.forward(ids).repeat_interleave(counts, dim=0)
    if longest > 1:
        state.repeat_rows(counts)
        # The padding is at the end, where no token of the target attends to it.
        following = [target[:-1] + [0] * (longest - len(target)) for target in targets]
        logits = torch.cat([logits, state.forward(torch.tensor(following, device=model.device), longest - 1)], dim=1)
    return [row[: len(target)] for row, target in zip(logits, targets, strict=True)]


def _pad_left(sequences: list[list[int]], prefix_length: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [rows, tokens] whose rows end together, and their mask, which begins with the prefix."""
    width = max(map(len, sequences))
    padding = [width - len(sequence) for sequence in sequences]
    ids = [[0] * pad + sequence for pad, sequence in zip(padding, sequences, strict=True)]
    mask = [[1] * prefix_length + [0] * pad + [1] * (width - pad) for pad in padding]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
