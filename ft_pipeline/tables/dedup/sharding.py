"""Finds duplicates over shards, each of which may be worked on elsewhere. The results are those of one process.

Rows that have a value in common (an exact or a normalized text, a window of words) are in one shard, by the hash of the
value. Rows that share a rare shingle, directly or over other rows, are compared in one shard; one process compares no
others, either.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ft_pipeline.tables.dedup.keys import Keys
from ft_pipeline.tables.dedup.lowest_windows import share_a_value, share_windows
from ft_pipeline.tables.dedup.matching import divide, first_index
from ft_pipeline.tables.dedup.near_duplicates import (
    RARITY_BITS,
    MayReplace,
    RareShingles,
    ReadShingles,
    ShingleSets,
    drop_unshared,
    enough_bits,
    match_sets,
    select_rarest,
)


@dataclass(frozen=True)
class Shards:
    """Work over rows, divided by hash."""

    count: int
    map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]] = map
    """Applies a function to each item, and yields the results in order. The built-in `map` does it in this process."""

    def first_index(self, keys: np.ndarray) -> np.ndarray:
        """Return what matching.first_index returns."""
        result = np.empty(len(keys), dtype=np.int64)
        for rows, first in self._by_value(first_index, keys):
            result[rows] = rows[first]
        return result

    def are_shared(self, values: np.ndarray) -> np.ndarray:
        """Return what lowest_windows.share_a_value returns."""
        shared = np.zeros(len(values), dtype=bool)
        for positions, is_shared in self._by_value(share_a_value, values):
            shared[positions] = is_shared
        return shared

    def find_near(
        self, keys: Keys, rows: np.ndarray, read_shingles: ReadShingles, may_replace: MayReplace | None = None
    ) -> dict[int, int]:
        """Return what near_duplicates.find_near returns. The texts are read three times, each time only a part."""
        rows = rows[share_windows(keys.windows, self.are_shared, rows)[rows]]
        if not len(rows):
            return {}
        ascending = np.sort(rows)
        frequencies = self._frequencies(ascending, read_shingles)
        rare = self._rare_shingles(ascending, frequencies, read_shingles)
        groups = self._groups(ascending, np.searchsorted(ascending, rows), rare)
        compare = partial(_compare, frequencies=frequencies, read_shingles=read_shingles, may_replace=may_replace)
        return {row: original for matches in self.map(compare, groups) for row, original in matches.items()}

    def _groups(self, rows: np.ndarray, order: np.ndarray, rare: RareShingles) -> Iterator["_Group"]:
        """Yield the rows of each shard. Those that share no rare shingle are left out."""
        component = components(rare, len(rows))
        sharing = np.unique(rare.owners)
        order = order[np.isin(order, sharing)]
        divided = (divide(component[positions], self.count) for positions in (sharing, order, rare.owners))
        for inside, ordered, owned in zip(*divided, strict=True):
            if len(inside):
                members = sharing[inside]
                owners = np.searchsorted(members, rare.owners[owned])
                in_order = np.searchsorted(members, order[ordered])
                yield _Group(rows[members], in_order, RareShingles(owners, rare.ids[owned]))

    def _by_value(
        self, work: Callable[[np.ndarray], np.ndarray], values: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (positions, work(their values)) of each shard. Equal values are in one shard."""
        positions = divide(values, self.count)
        yield from zip(positions, self.map(work, (values[rows] for rows in positions)), strict=True)

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return [part for part in np.array_split(rows, self.count) if len(part)]

    def _frequencies(self, rows: np.ndarray, read_shingles: ReadShingles) -> np.ndarray:
        frequencies = np.zeros(1 << RARITY_BITS, dtype=np.int64)
        for places, counts in self.map(partial(_count, read_shingles=read_shingles), self._parts(rows)):
            frequencies[places] += counts
        bits = enough_bits(int(frequencies.sum()))  # as in one process: each set counts each of its shingles once
        return frequencies.reshape(-1, 1 << bits).sum(axis=0)

    def _rare_shingles(self, rows: np.ndarray, frequencies: np.ndarray, read_shingles: ReadShingles) -> RareShingles:
        parts = self._parts(rows)
        select = partial(_select, frequencies=frequencies, read_shingles=read_shingles)
        owners, shingles, begin = [], [], 0
        for part, (part_owners, part_shingles) in zip(parts, self.map(select, parts), strict=True):
            owners.append(part_owners + begin)
            shingles.append(part_shingles)
            begin += len(part)
        return drop_unshared(np.concatenate(owners), np.concatenate(shingles))


def _count(rows: np.ndarray, read_shingles: ReadShingles) -> tuple[np.ndarray, np.ndarray]:
    """Return (positions, values) of the frequencies that are not 0."""
    frequencies = ShingleSets.of_rows(*read_shingles(rows)).frequencies()
    places = np.flatnonzero(frequencies)
    return places, frequencies[places]


def _select(rows: np.ndarray, frequencies: np.ndarray, read_shingles: ReadShingles) -> tuple[np.ndarray, np.ndarray]:
    return select_rarest(ShingleSets.of_rows(*read_shingles(rows)), frequencies)


@dataclass(frozen=True)
class _Group:
    """Rows that are compared with each other, and what is needed besides their texts."""

    rows: np.ndarray
    """int64, ascending."""
    order: np.ndarray
    """int64: positions in `rows`, in the order in which the rows are kept."""
    rare: RareShingles
    """Its owners are positions in `rows`."""


def _compare(
    group: _Group, frequencies: np.ndarray, read_shingles: ReadShingles, may_replace: MayReplace | None
) -> dict[int, int]:
    sets = ShingleSets.of_rows(*read_shingles(group.rows))
    return match_sets(group.rows, group.order, sets, group.rare, frequencies, may_replace)


def components(rare: RareShingles, count: int) -> np.ndarray:
    """Return, for each of `count` sets, the first set that it is connected with by shared rare shingles."""
    labels = np.arange(count)
    lowest = np.empty(int(rare.ids.max(initial=-1)) + 1, dtype=np.int64)
    while True:
        lowest[:] = count
        np.minimum.at(lowest, rare.ids, labels[rare.owners])
        lower = labels.copy()
        np.minimum.at(lower, rare.owners, lowest[rare.ids])
        lower = lower[lower]
        if np.array_equal(lower, labels):
            return labels
        labels = lower
