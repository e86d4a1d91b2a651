"""Duplicate rows: equal, equal after normalization, or sharing nine tenths of their 3-word shingles.

MinHash (rensa) finds the rows that may be near another row. Their rarest shingles select the candidates. An exact count
over the shingle sets decides. Two sets with Jaccard >= 9/10 must share one of the rarest tenth of their shingles. So
this selection loses no duplicate, and a million rows of one template do not become candidates of each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash, RMinHashLSH

from ft_pipeline.tables.dedup.keys import Keys, merge

NUM_PERM, BANDS, SEED = 48, 12, 42
"""Two rows with Jaccard 0.9 share no band of 4 with probability (1 - 0.9**4)**12 = 3e-6."""
GATHER_SHINGLES = 4_000_000
MAX_POSTINGS = 256
"""Rows compared per shared shingle, rarest shingles first: limits the work on hostile data."""
_RARITY_BITS = 22


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


def find_duplicates(keys: Keys, *, exact: bool = True, near: bool = True) -> DuplicateMatches:
    """Find duplicates of earlier rows. The first of equal rows is kept. `exact` and `near` enable the two kinds."""
    count = len(keys)
    positions = np.arange(count)
    first_equal, first_normal = first_index(keys.exact), first_index(keys.normal)
    equal = first_equal < positions
    of = np.full(count, -1, dtype=np.int64)
    if near:
        alike = (first_normal < positions) & ~equal
        of[alike] = first_normal[alike]
    if exact:
        of[equal] = first_equal[equal]
    if near:
        fresh = np.flatnonzero((first_normal == positions) if exact else ~(of >= 0) & ~equal)
        for row, original in _near(keys, fresh, known=0):
            of[row] = original
    return DuplicateMatches(of, equal & (of >= 0))


def match_against(new: Keys, old: Keys) -> DuplicateMatches:
    """Return, for each row of `new`, the first row of `old` that it equals or is near to.

    Rows of `new` are not compared with each other.
    """
    both = merge([old, new])
    known = len(old)
    first_equal, first_normal = first_index(both.exact)[known:], first_index(both.normal)[known:]
    of = np.where(first_normal < known, first_normal, -1)
    of = np.where(first_equal < known, first_equal, of)
    # One row represents all rows that are equal after normalization.
    fresh_old = np.flatnonzero(first_index(both.normal)[:known] == np.arange(known))
    fresh = np.concatenate([fresh_old, known + np.flatnonzero(of < 0)])
    for row, original in _near(both, fresh, known=known):
        of[row - known] = original
    return DuplicateMatches(of, first_equal < known)


def first_index(keys: np.ndarray) -> np.ndarray:
    """Return, for each key, the position of its first occurrence."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = order[new][np.cumsum(new) - 1] if len(keys) else order
    return result


def _near(keys: Keys, rows: np.ndarray, known: int) -> Iterator[tuple[int, int]]:
    """Yield (row, the earlier kept row near it). With `known`: only rows from that position, near a row before it."""
    if len(rows) < 2:
        return
    starts = np.cumsum(keys.lengths) - keys.lengths
    flags = _flag(keys, rows, starts)
    rows = rows[flags]
    sets = _Sets(keys, starts)
    owners, tokens, sizes = _rare_shingles(sets, rows)
    yield from _walk(sets, rows, known, owners, tokens, sizes)


def _flag(keys: Keys, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return which of `rows` share a MinHash band with another row."""
    if 10 * len(rows) > 9 * len(keys):  # nearly all: the few other rows cost less than a copy without them
        return _flag_all(keys.shingles, keys.lengths)[rows]
    return _flag_all(_gather(keys, starts, rows), keys.lengths[rows])


def _flag_all(shingles: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(shingles), offsets, NUM_PERM, SEED)
    index = RMinHashLSH(threshold=0.9, num_perm=NUM_PERM, num_bands=BANDS)
    return np.array(index.query_duplicate_flags_matrix_one_shot(matrix), dtype=bool)


def _gather(keys: Keys, starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    lengths = keys.lengths[rows]
    before = np.cumsum(lengths) - lengths
    return keys.shingles[np.repeat(starts[rows] - before, lengths) + np.arange(int(lengths.sum()))]


class _Sets:
    """The shingle sets of rows, computed on demand."""

    def __init__(self, keys: Keys, starts: np.ndarray):
        self.keys, self.starts = keys, starts

    def of(self, row: int) -> np.ndarray:
        start = self.starts[row]
        return np.unique(self.keys.shingles[start : start + self.keys.lengths[row]])

    def common(self, mine: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return, for each row, how many shingles of the sorted set `mine` it has."""
        flat = _gather(self.keys, self.starts, rows)
        owners = np.repeat(np.arange(len(rows)), self.keys.lengths[rows])
        places = np.minimum(np.searchsorted(mine, flat), len(mine) - 1)
        hits = mine[places] == flat
        held = np.zeros((len(rows), len(mine)), dtype=bool)
        held[owners[hits], places[hits]] = True
        return held.sum(axis=1)

    def batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (position in `rows` of each shingle, shingle): each shingle once per row, ordered by row."""
        ends = np.cumsum(self.keys.lengths[rows])
        begin = 0
        while begin < len(rows):
            done = ends[begin - 1] if begin else 0
            end = max(int(np.searchsorted(ends, done + GATHER_SHINGLES)), begin + 1)
            part = rows[begin:end]
            flat = _gather(self.keys, self.starts, part)
            owners = np.repeat(np.arange(begin, end), self.keys.lengths[part])
            order = np.lexsort((flat, owners))
            owners, flat = owners[order], flat[order]
            single = np.ones(len(flat), dtype=bool)
            single[1:] = (flat[1:] != flat[:-1]) | (owners[1:] != owners[:-1])
            yield owners[single], flat[single]
            begin = end


def _rare_shingles(sets: _Sets, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the rarest n - ceil(9n/10) + 1 of each row's n distinct shingles, if another row's selection has them too.

    Returns (position in `rows` of each shingle, a number that equal shingles share, n of every row).
    """
    mask = np.uint64((1 << _RARITY_BITS) - 1)
    frequency = np.zeros(1 << _RARITY_BITS, dtype=np.int64)
    for _, flat in sets.batches(rows):
        frequency += np.bincount((flat & mask).astype(np.int64), minlength=len(frequency))
    owner_parts, token_parts = [], []
    all_sizes = np.zeros(len(rows), dtype=np.int64)
    for owners, flat in sets.batches(rows):
        order = np.lexsort((flat, frequency[(flat & mask).astype(np.int64)], owners))
        owners, flat = owners[order], flat[order]
        starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        sizes = np.diff(np.append(starts, len(owners)))
        all_sizes[owners[starts]] = sizes
        place = np.arange(len(owners)) - np.repeat(starts, sizes)
        rare = place < np.repeat(sizes - (9 * sizes + 9) // 10 + 1, sizes)
        owner_parts.append(owners[rare])
        token_parts.append(flat[rare])
    if not owner_parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), all_sizes
    owners, tokens = np.concatenate(owner_parts), np.concatenate(token_parts)
    _, ids, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    shared = counts[ids] > 1
    return owners[shared], ids[shared], all_sizes


def _walk(
    sets: _Sets, rows: np.ndarray, known: int, owners: np.ndarray, tokens: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[int, int]]:
    if not len(owners):
        return
    postings: dict[int, list[int]] = {}
    cuts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
    for begin, end in zip(cuts, np.append(cuts[1:], len(owners)), strict=True):
        position = int(owners[begin])
        row_tokens = tokens[begin:end].tolist()
        is_new = rows[position] >= known
        candidates = {candidate for token in row_tokens for candidate in postings.get(token, ())} if is_new else ()
        original = _first_near(sets, rows, position, np.array(sorted(candidates)), sizes) if candidates else None
        if original is not None:
            yield int(rows[position]), int(rows[original])
        elif not known or not is_new:
            for token in row_tokens:
                entries = postings.setdefault(token, [])
                if len(entries) < MAX_POSTINGS:
                    entries.append(position)


def _first_near(sets: _Sets, rows: np.ndarray, at: int, candidates: np.ndarray, sizes: np.ndarray) -> int | None:
    """Return the first candidate (positions in `rows`, ascending) with Jaccard >= 9/10 to the row at `at`, or None."""
    row_size, candidate_sizes = sizes[at], sizes[candidates]
    fits = 10 * np.minimum(row_size, candidate_sizes) >= 9 * np.maximum(row_size, candidate_sizes)
    candidates, candidate_sizes = candidates[fits], candidate_sizes[fits]
    if not candidates.size:
        return None
    common = sets.common(sets.of(int(rows[at])), rows[candidates])
    near = np.flatnonzero(10 * common >= 9 * (row_size + candidate_sizes - common))
    return int(candidates[near[0]]) if near.size else None
