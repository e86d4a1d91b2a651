"""The windows of words that each row is known by: an index of all rows, in which rows that may be near are found.

Of the windows of a row (every three words, shingles.py), those with the lowest hashes are in the index. Rows that have
windows in common choose the same ones of them (Broder, "On the resemblance and containment of documents", 1997). Of
two rows that share nine tenths of their windows, each of the KEPT lowest of both is in both with probability 9/10, so
that they share fewer than SHARED with probability 2e-5. One or two windows that others have, too, may be a phrase.
"""

from collections.abc import Iterator

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, mix, run_starts

KEPT, SHARED = 8, 3
"""Number of windows of a row that are in the index, and of those that near rows have in common."""
NONE = np.uint32(0xFFFFFFFF)
"""In the place of a window that a short row does not have."""
PART = 1 << 24
"""Number of values that are sorted at a time, about: this bounds the memory."""
_BLOCK_WINDOWS, _BLOCK_ROWS = 1 << 15, 1 << 12
"""Number of windows, and of their rows, that are sorted at a time: they stay in the processor's cache."""
_ROW = np.uint64(52)
"""The place of the row's number in 64 bits, above 52 bits of a window."""
"""Returns a bool per value: whether another one is equal to it."""


def lowest_windows(windows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the windows of each row that are in the index: uint32, shape (rows, KEPT), in the order of their hashes.

    windows: uint64, row after row. lengths: the number of windows of each row, at least 1.
    """
    lowest = np.full((len(lengths), KEPT), NONE, np.uint32)
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        done = ends[begin - 1] if begin else 0
        end = min(max(int(np.searchsorted(ends, done + _BLOCK_WINDOWS)), begin + 1), begin + _BLOCK_ROWS)
        _fill(lowest[begin:end], windows[done : ends[end - 1]], lengths[begin:end], 3 * KEPT)
        begin = end
    # Rows with the same one or two windows, and no others, share SHARED.
    single = lowest[:, 1] == NONE
    lowest[single, 1] = ~lowest[single, 0]
    short = lowest[:, 2] == NONE
    lowest[short, 2] = lowest[short, 0] * np.uint32(0x9E3779B1) + lowest[short, 1]
    return lowest


def _fill(lowest: np.ndarray, windows: np.ndarray, lengths: np.ndarray, sorted_of_row: int) -> None:
    """Set `lowest` for some rows. sorted_of_row: only about so many windows of a row are sorted, which is faster."""
    shares = np.minimum(sorted_of_row / lengths, 1 - 2**-53)
    limits = np.where(lengths > sorted_of_row, shares * 2.0**64, 0).astype(np.uint64) - np.uint64(1)
    low = windows <= np.repeat(limits, lengths)
    counts = np.add.reduceat(low, np.cumsum(lengths) - lengths, dtype=np.int64)
    rows = np.repeat(np.arange(len(lengths), dtype=np.uint64), counts)
    keys = np.sort(rows << _ROW | windows[low] >> (np.uint64(64) - _ROW))
    keys = keys[run_starts(keys)]
    rows = (keys >> _ROW).astype(np.int64)
    distinct = np.bincount(rows, minlength=len(lengths))
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(distinct) - distinct, distinct)
    kept = ranks < KEPT
    lowest[rows[kept], ranks[kept]] = keys[kept].astype(np.uint32)
    if (few := (distinct < KEPT) & (counts < lengths)).any():
        some = lowest[few]
        _fill(some, windows[np.repeat(few, lengths)], lengths[few], int(lengths.max()))
        lowest[few] = some


def share_windows(lowest: np.ndarray, compared: np.ndarray | None = None) -> np.ndarray:
    """Return a bool per row: whether another row has SHARED of its windows.

    lowest: as `lowest_windows` returns them. compared: the rows that are compared, None for all.
    """
    rows, windows, first = common_windows(lowest, compared)
    copies = np.flatnonzero(first != np.arange(len(first)))
    near = np.zeros(len(rows), dtype=bool)
    near[copies] = near[first[copies]] = True
    for triples, owners in triples_of(windows, first):
        near[owners[share_a_value(triples)]] = True
    shared = np.zeros(len(lowest), dtype=bool)
    shared[rows[near]] = True
    return shared


def common_windows(lowest: np.ndarray, compared: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (rows with at least SHARED windows that others have, too; those windows, in the place of others NONE; for
    each of these rows, the place among them of the first one with the same windows).

    Under a long instruction, millions of rows have the same windows, apart from those that only one row has.
    """
    known = lowest != NONE
    if compared is not None:
        is_compared = np.zeros(len(known), dtype=bool)
        is_compared[compared] = True
        known &= is_compared[:, None]
    known[known] = share_a_value(lowest[known])
    rows = np.flatnonzero(known.sum(axis=1, dtype=np.uint8) >= SHARED)
    windows = np.where(known[rows], lowest[rows], NONE)
    hashes = np.zeros(len(rows), np.uint64)
    for column in windows.T:
        hashes += mix((column + np.uint64(1)) * PLACES[0]) * (column != NONE)
    _, places, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    return rows, windows, places[numbers]


def triples_of(windows: np.ndarray, first: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (uint64 of every SHARED windows of a row, the row). Equal ones come together. windows, first: as
    `common_windows` returns them. Only the first row with the same windows is looked at."""
    known = (windows != NONE) & (first == np.arange(len(first)))[:, None]
    rows = np.repeat(np.arange(len(windows)), known.sum(axis=1))
    windows = windows[known]
    parts = _parts(len(windows) * (KEPT - 1))  # of KEPT windows, there are KEPT * (KEPT - 1) triples
    for part in range(parts):
        firsts = np.flatnonzero(windows & np.uint32(parts - 1) == part)
        triples, owners = [], []
        for last in range(2, KEPT):
            firsts = firsts[firsts + last < len(windows)]
            firsts = firsts[rows[firsts + last] == rows[firsts]]
            outer = (windows[firsts].astype(np.uint64) << np.uint64(32) | windows[firsts + last]) * PLACES[0]
            triples += [mix(outer + windows[firsts + middle]) for middle in range(1, last)]
            owners += [rows[firsts]] * (last - 1)
        yield np.concatenate(triples), np.concatenate(owners)


def _parts(count: int) -> int:
    """Return the number of parts of about PART values each: a power of 2."""
    return 1 << max(-(-count // PART) - 1, 0).bit_length()


def share_a_value(values: np.ndarray) -> np.ndarray:
    """Return a bool per value: whether another one is equal to it. values: uint32, or hashes as uint64, of which the
    upper bits are compared, at least 42 of them."""
    parts = _parts(len(values))
    if parts == 1:
        return _share_a_value(values)
    shared = np.zeros(len(values), dtype=bool)
    for part in range(parts):
        places = np.flatnonzero(values & values.dtype.type(parts - 1) == part)
        shared[places] = _share_a_value(values[places])
    return shared


def _share_a_value(values: np.ndarray) -> np.ndarray:
    # Sorting the values together with their positions is faster than sorting positions by value.
    bits = np.uint64(max(len(values) - 1, 1).bit_length())
    keys = values.astype(np.uint64) << bits if values.dtype == np.uint32 else values >> bits << bits
    keys |= np.arange(len(values), dtype=np.uint64)
    keys.sort()
    equal = np.flatnonzero(keys[1:] >> bits == keys[:-1] >> bits)
    shared = np.zeros(len(values), dtype=bool)
    for some in (keys[equal], keys[equal + 1]):
        shared[some & ((np.uint64(1) << bits) - np.uint64(1))] = True
    return shared
