"""Group rows into batches: similar lengths together, the longest batch first, padding masked by position.

The rows of a batch can also be laid end to end without padding: one sequence, and where each row begins in it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ft_pipeline.training.tokens.chat_tokens import MASKED

_GROUP_BATCHES = 64
"""Number of batches whose rows are sorted by length together. With more, batches have less padding and mix less."""
_LENGTH_JITTER = 0.1
"""Before sorting, each length is changed at random by up to this share, so that every epoch has different batches."""
ROW_BOUNDS = "cu_seq_lens"
"""Key in a batch of rows that are laid end to end: where each row begins, and where the last one ends [rows + 1]."""
BRANCHES = "branches"
"""Key in such a batch whose rows have branches (models/attention.py): the lengths of the stem and of each branch, by
row."""


def collate(rows: Sequence[dict[str, Any]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Return input_ids, attention_mask, labels [rows, longest row], padded on the right. Padding is masked and never
    trained.

    Without a pad token, rows are laid end to end: input_ids, position_ids, labels [1, tokens] and ROW_BOUNDS.
    """
    if pad_token_id is None:
        return _end_to_end(rows)
    width = max(len(row["input_ids"]) for row in rows)

    def pad(values: list[list[int]], padding: int) -> Tensor:
        return torch.tensor([value + [padding] * (width - len(value)) for value in values], dtype=torch.long)

    return {
        "input_ids": pad([list(row["input_ids"]) for row in rows], pad_token_id),
        "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": pad([list(row["labels"]) for row in rows], MASKED),
    }


def _end_to_end(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of rows that are laid end to end."""
    lengths = [len(row["input_ids"]) for row in rows]
    # The first token of a row cannot be predicted from the row before it.
    labels = [label for row in rows for label in (MASKED, *row["labels"][1:])]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": torch.tensor([labels]),
        ROW_BOUNDS: torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32),
    }


def join_branches(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> dict[str, Any]:
    """Return a batch of groups (prompt, answers) that are laid end to end, with each prompt once. All answers are
    trained.

    The last token of the prompt begins each answer, since it predicts the first token. BRANCHES has for each group the
    number of tokens of the rest of the prompt, and of each answer.
    """
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    branches: list[list[int]] = []
    for prompt, answers in groups:
        stem = len(prompt) - 1
        ids += prompt[:stem]
        labels += [MASKED] * stem
        positions += range(stem)
        for answer in answers:
            ids += [prompt[stem], *answer]
            labels += [MASKED, *answer]
            positions += range(stem, stem + 1 + len(answer))
        branches.append([stem, *(1 + len(answer) for answer in answers)])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
        ROW_BOUNDS: torch.tensor([0, *map(sum, branches)], dtype=torch.int32).cumsum(0, dtype=torch.int32),
        BRANCHES: branches,
    }


def count_tokens(batch: dict[str, Tensor]) -> int:
    """Return the number of tokens of the rows, without padding."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


class LengthGroupedSampler(Sampler[int]):
    """Row indices; each `batch_size` consecutive rows have similar lengths. Only seed and epoch decide the order.

    The first batch of the first epoch has the longest rows, so that an out-of-memory error occurs in the first minute.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. The trainer calls it after a resume too, so that earlier `iter` calls do not matter."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        batches = self._group_batches(generator)
        full = [batch for batch in batches if len(batch) == self._batch_size]
        short = [batch for batch in batches if len(batch) < self._batch_size]
        order = torch.randperm(len(full), generator=generator).tolist()
        if self._epoch == 0 and full:
            longest = max(order, key=lambda index: max(self._lengths[row] for row in full[index]))
            order.remove(longest)
            order.insert(0, longest)
        for index in order:
            yield from full[index]
        for batch in short:  # last, because before a full batch it would shift the rows of that batch
            yield from batch

    def _group_batches(self, generator: torch.Generator) -> list[list[int]]:
        """Return the rows in batches of similar length. At most one batch is short."""
        count = len(self._lengths)
        factors = 1 - _LENGTH_JITTER + 2 * _LENGTH_JITTER * torch.rand(count, generator=generator)
        blurred_lengths = (torch.tensor(self._lengths) * factors).tolist()
        shuffled = torch.randperm(count, generator=generator).tolist()
        size = _GROUP_BATCHES * self._batch_size
        groups = [shuffled[begin : begin + size] for begin in range(0, count, size)]
        ordered = [index for group in groups for index in sorted(group, key=lambda index: -blurred_lengths[index])]
        return [ordered[begin : begin + self._batch_size] for begin in range(0, count, self._batch_size)]


class RowBatches(Sampler[list[int]]):
    """The rows of a LengthGroupedSampler in batches of `batch_size` rows. The last batch may have fewer."""

    def __init__(self, sampler: LengthGroupedSampler, batch_size: int) -> None:
        self._sampler = sampler
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self._sampler)
        for begin in range(0, len(rows), self._batch_size):
            yield rows[begin : begin + self._batch_size]


class TokenBatches(Sampler[list[int]]):
    """Batches of rows of similar length, each filled up to a number of tokens, every row counted as long as the longest
    one of its batch. A longer row is a batch alone.

    Every epoch has the same batches in another order, so that all epochs have equally many. Only the seed and the epoch
    decide the order. The largest batch comes first in the first epoch, so that an out-of-memory error occurs early.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, seed: int) -> None:
        self._seed = seed
        self._epoch = 0
        generator = torch.Generator().manual_seed(seed * 1_000_003)
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        self._batches = fill_batches(sorted(shuffled, key=lambda row: -lengths[row]), lengths, tokens)
        self._largest = max(
            range(len(self._batches)), key=lambda index: len(self._batches[index]) * lengths[self._batches[index][0]]
        )

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. The trainer calls it after a resume too, so that earlier `iter` calls do not matter."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._batches), generator=generator).tolist()
        if self._epoch == 0:
            order.remove(self._largest)
            order.insert(0, self._largest)
        for index in order:
            yield self._batches[index]


def fill_batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Return the rows in batches that have at most `tokens` tokens with padding. order: the rows, the longest first."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def lengths_of(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[int]:
    """Return the tokens of each row, summed over `columns`."""
    return [sum(len(row[name]) for name in columns) for row in rows]


def batches_by_length(
    rows: Sequence[dict[str, Any]],
    batch_size: int,
    columns: Sequence[str] = ("input_ids",),
    tokens: int | None = None,
) -> list[list[dict[str, Any]]]:
    """Return all rows in batches of similar length (of `columns`, summed), the longest first: `batch_size` rows each,
    or up to a number of tokens. The result is always the same, as held-out losses need it."""
    lengths = lengths_of(rows, columns)
    order = sorted(range(len(rows)), key=lambda index: -lengths[index])
    if tokens is None:
        batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    else:
        batches = fill_batches(order, lengths, tokens)
    return [[rows[index] for index in batch] for batch in batches]
