"""Duplicate rows: equal, equal after normalization, or sharing nine tenths of their 3-word shingles.

Near duplicates are found in three steps. MinHash (rensa) selects the rows that are probably near another row. Their
rarest shingles select the pairs to compare. An exact count over the shingle sets decides.

Two sets with Jaccard >= 9/10 share at least one of the rarest tenth of their shingles. So the second step loses no
duplicate (except by MAX_POSTINGS), and a million rows of one template are not all compared with each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash, RMinHashLSH

from ft_pipeline.tables.dedup.keys import Keys, merge

NUM_PERM, BANDS, SEED = 48, 12, 42
"""MinHash misses two rows with Jaccard 0.9 (they share none of the bands of 4) with probability
(1 - 0.9**4)**12 = 3e-6."""
GATHER_SHINGLES = 4_000_000
"""Number of shingles that are copied into memory at a time."""
MAX_POSTINGS = 256
"""Rows remembered per shingle, which are the first ones that have it. Limits the work on hostile data: a duplicate of a
row that is not remembered may be missed."""
_RARITY_BITS = 22
"""Shingles are counted by this many of their bits, in 32 MiB. Shingles that agree in these bits count as one."""


@dataclass
class DuplicateMatches:
    """For each row, the row that it duplicates."""

    of: np.ndarray
    """int64: the position of the row that it duplicates, -1 if it is kept."""
    exact: np.ndarray
    """bool: the strings are equal."""

    @property
    def kept(self) -> np.ndarray:
        return self.of < 0


def find_duplicates(keys: Keys) -> DuplicateMatches:
    """Find duplicates of earlier rows. The first of equal rows is kept."""
    count = len(keys)
    positions = np.arange(count)
    first_equal, first_normal = first_index(keys.exact), first_index(keys.normal)
    equal = first_equal < positions
    of = np.full(count, -1, dtype=np.int64)
    alike = (first_normal < positions) & ~equal
    of[alike] = first_normal[alike]
    of[equal] = first_equal[equal]
    for row, original in _find_near(keys, np.flatnonzero(first_normal == positions), first_new=None):
        of[row] = original
    return DuplicateMatches(of, equal)


def match_against(new: Keys, old: Keys) -> DuplicateMatches:
    """Return, for each row of `new`, the first row of `old` that it equals or is near to.

    Rows of `new` are not compared with each other.
    """
    old_count = len(old)
    if not old_count:
        return DuplicateMatches(np.full(len(new), -1, dtype=np.int64), np.zeros(len(new), dtype=bool))
    both = merge([old, new])
    first_equal, first_normal = first_index(both.exact)[old_count:], first_index(both.normal)[old_count:]
    of = np.where(first_normal < old_count, first_normal, -1)
    of = np.where(first_equal < old_count, first_equal, of)
    # One row represents all rows that are equal after normalization.
    fresh_old = np.flatnonzero(first_index(both.normal)[:old_count] == np.arange(old_count))
    fresh = np.concatenate([fresh_old, old_count + np.flatnonzero(of < 0)])
    for row, original in _find_near(both, fresh, first_new=old_count):
        of[row - old_count] = original
    return DuplicateMatches(of, first_equal < old_count)


def first_index(keys: np.ndarray) -> np.ndarray:
    """Return, for each key, the position of its first occurrence."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = order[new][np.cumsum(new) - 1] if len(keys) else order
    return result


def _find_near(keys: Keys, rows: np.ndarray, first_new: int | None) -> Iterator[tuple[int, int]]:
    """Yield (row, the first row before it that it is near to), for rows that have one.

    first_new: None compares each row with the kept rows before it. A position compares only the rows from there on,
    and only with the rows before it.
    """
    if len(rows) < 2:
        return
    starts = np.cumsum(keys.lengths) - keys.lengths
    rows = rows[_may_be_near(keys, rows, starts)]
    sets = _Sets(keys, starts)
    rare = _rare_shingles(sets, rows)
    yield from _match_in_order(sets, rows, first_new, rare)


def _may_be_near(keys: Keys, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return a bool per row of `rows`: whether it shares a MinHash band with another one."""
    # If only a few rows are left out, hashing them too costs less than a copy of the shingles without them.
    if 10 * (len(keys) - len(rows)) < len(keys):
        return _share_band(keys.shingles, keys.lengths)[rows]
    return _share_band(_gather(keys, starts, rows), keys.lengths[rows])


def _share_band(shingles: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return a bool per row: whether it shares a MinHash band with another row."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(shingles), offsets, NUM_PERM, SEED)
    index = RMinHashLSH(threshold=0.9, num_perm=NUM_PERM, num_bands=BANDS)
    return np.array(index.query_duplicate_flags_matrix_one_shot(matrix), dtype=bool)


def _gather(keys: Keys, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the shingles of some rows, row after row. starts: the position of each row's first shingle."""
    lengths = keys.lengths[rows]
    before = np.cumsum(lengths) - lengths
    return keys.shingles[np.repeat(starts[rows] - before, lengths) + np.arange(int(lengths.sum()))]


class _Sets:
    """The shingle sets of rows, computed on demand."""

    def __init__(self, keys: Keys, starts: np.ndarray):
        self.keys, self.starts = keys, starts

    def of(self, row: int) -> np.ndarray:
        """Return the distinct shingles of a row, sorted."""
        start = self.starts[row]
        return np.unique(self.keys.shingles[start : start + self.keys.lengths[row]])

    def common(self, row_set: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return, for each row, how many shingles of the sorted `row_set` it has."""
        shingles = _gather(self.keys, self.starts, rows)
        owners = np.repeat(np.arange(len(rows)), self.keys.lengths[rows])
        places = np.minimum(np.searchsorted(row_set, shingles), len(row_set) - 1)
        hits = row_set[places] == shingles
        is_common = np.zeros((len(rows), len(row_set)), dtype=bool)
        is_common[owners[hits], places[hits]] = True
        return is_common.sum(axis=1)

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (position in `rows` of each shingle, shingle): each shingle once per row, ordered by row."""
        ends = np.cumsum(self.keys.lengths[rows])
        begin = 0
        while begin < len(rows):
            done = ends[begin - 1] if begin else 0
            end = max(int(np.searchsorted(ends, done + GATHER_SHINGLES)), begin + 1)
            batch = rows[begin:end]
            shingles = _gather(self.keys, self.starts, batch)
            owners = np.repeat(np.arange(begin, end), self.keys.lengths[batch])
            order = np.lexsort((shingles, owners))
            owners, shingles = owners[order], shingles[order]
            distinct = np.ones(len(shingles), dtype=bool)
            distinct[1:] = (shingles[1:] != shingles[:-1]) | (owners[1:] != owners[:-1])
            yield owners[distinct], shingles[distinct]
            begin = end


@dataclass
class _RareShingles:
    """The rarest shingles of each row that another row's rarest shingles include, too."""

    owners: np.ndarray
    """int64, ascending: the position of the row of each shingle."""
    ids: np.ndarray
    """int64: a number for each shingle, equal for equal shingles."""
    sizes: np.ndarray
    """int64 per row: its number of distinct shingles."""


def _rare_shingles(sets: _Sets, rows: np.ndarray) -> _RareShingles:
    """Select the rarest shingles of each row, and drop those that no other row's selection includes."""
    frequencies = _frequencies(sets, rows)
    owner_parts, shingle_parts = [], []
    sizes = np.zeros(len(rows), dtype=np.int64)
    for owners, shingles in sets.batches(rows):
        sizes += np.bincount(owners, minlength=len(rows))
        rare_owners, rare_shingles = _select_rarest(owners, shingles, frequencies)
        owner_parts.append(rare_owners)
        shingle_parts.append(rare_shingles)
    if not owner_parts:
        return _RareShingles(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), sizes)
    owners = np.concatenate(owner_parts)
    _, ids, counts = np.unique(np.concatenate(shingle_parts), return_inverse=True, return_counts=True)
    is_shared = counts[ids] > 1
    return _RareShingles(owners[is_shared], ids[is_shared], sizes)


def _frequencies(sets: _Sets, rows: np.ndarray) -> np.ndarray:
    """Return by the lowest bits of a shingle how many rows have it."""
    frequencies = np.zeros(1 << _RARITY_BITS, dtype=np.int64)
    for _, shingles in sets.batches(rows):
        frequencies += np.bincount(_lowest_bits(shingles), minlength=len(frequencies))
    return frequencies


def _lowest_bits(shingles: np.ndarray) -> np.ndarray:
    return (shingles & np.uint64((1 << _RARITY_BITS) - 1)).astype(np.int64)


def _select_rarest(owners: np.ndarray, shingles: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owners, shingles) of the rarest n - ceil(9n/10) + 1 of each row's n distinct shingles.

    A set with Jaccard >= 9/10 to the row's has at least ceil(9n/10) of its shingles, and so one of these. Ties are
    decided by the shingle itself, because the order must be the same for all rows.
    """
    order = np.lexsort((shingles, frequencies[_lowest_bits(shingles)], owners))
    owners, shingles = owners[order], shingles[order]
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
    sizes = np.diff(np.append(starts, len(owners)))
    rank = np.arange(len(owners)) - np.repeat(starts, sizes)
    is_rare = rank < np.repeat(sizes - (9 * sizes + 9) // 10 + 1, sizes)
    return owners[is_rare], shingles[is_rare]


def _match_in_order(
    sets: _Sets, rows: np.ndarray, first_new: int | None, rare: _RareShingles
) -> Iterator[tuple[int, int]]:
    """Go through the rows in order, and compare each with the remembered rows that share a rare shingle with it."""
    if not len(rare.owners):
        return
    positions_by_id: dict[int, list[int]] = {}
    starts = np.flatnonzero(np.concatenate([[True], rare.owners[1:] != rare.owners[:-1]]))
    for begin, end in zip(starts, np.append(starts[1:], len(rare.owners)), strict=True):
        position = int(rare.owners[begin])
        shingle_ids = rare.ids[begin:end].tolist()
        is_compared = first_new is None or rows[position] >= first_new
        original = None
        if is_compared:
            candidates = {earlier for shingle in shingle_ids for earlier in positions_by_id.get(shingle, ())}
            original = (
                _first_near(sets, rows, position, np.array(sorted(candidates)), rare.sizes) if candidates else None
            )
        if original is not None:
            yield int(rows[position]), int(rows[original])
        elif first_new is None or not is_compared:
            for shingle in shingle_ids:
                remembered = positions_by_id.setdefault(shingle, [])
                if len(remembered) < MAX_POSTINGS:
                    remembered.append(position)


def _first_near(sets: _Sets, rows: np.ndarray, position: int, candidates: np.ndarray, sizes: np.ndarray) -> int | None:
    """Return the first candidate with Jaccard >= 9/10 to the row at `position`, or None.

    position, candidates: positions in `rows`; candidates ascend.
    """
    row_size, candidate_sizes = sizes[position], sizes[candidates]
    # Sets of very different sizes cannot be near.
    is_possible = 10 * np.minimum(row_size, candidate_sizes) >= 9 * np.maximum(row_size, candidate_sizes)
    candidates, candidate_sizes = candidates[is_possible], candidate_sizes[is_possible]
    if not candidates.size:
        return None
    common = sets.common(sets.of(int(rows[position])), rows[candidates])
    near = np.flatnonzero(10 * common >= 9 * (row_size + candidate_sizes - common))
    return int(candidates[near[0]]) if near.size else None
