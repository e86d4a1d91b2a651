"""MinHash bands: rows whose sets of shingles are near each other have an equal band with near certainty.

Broder, "On the resemblance and containment of documents", 1997. Each band is made of two minima, so that two rows of
Jaccard similarity s share a given band with probability s**2. With Jaccard 0.9, they share none of the eight bands with
probability (1 - 0.9**2)**8 = 2e-6.
"""

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, mix

BANDS = 8
BLOCK_SHINGLES = 1 << 15
"""Shingles that are hashed at a time. They stay in the processor's cache."""
_FACTORS = mix(np.arange(1, 2 * BANDS + 1, dtype=np.uint64) * PLACES[0]) | np.uint64(1)
"""Odd: each factor permutes the shingles."""


def bands_of(shingles: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the bands of each row: uint32, shape (rows, BANDS).

    shingles: uint64, row after row. lengths: the number of shingles of each row, at least 1.
    """
    bands = np.empty((len(lengths), BANDS), np.uint32)
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        done = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, done + BLOCK_SHINGLES)), begin + 1)
        block, starts = shingles[done : ends[end - 1]], ends[begin:end] - lengths[begin:end] - done
        for band in range(BANDS):
            factors = _FACTORS[2 * band : 2 * band + 2]
            first, second = (np.minimum.reduceat(block * factor, starts) for factor in factors)
            bands[begin:end, band] = mix(first * PLACES[1] + second * PLACES[2]) >> np.uint64(32)
        begin = end
    return bands


def share_a_band(bands: np.ndarray) -> np.ndarray:
    """Return a bool per row: whether another row has an equal band, at the same place."""
    shared = np.zeros(len(bands), dtype=bool)
    for band in range(bands.shape[1]):
        shared |= share_a_value(bands[:, band])
    return shared


def share_a_value(values: np.ndarray) -> np.ndarray:
    """Return a bool per value: whether another one is equal to it."""
    shared = np.zeros(len(values), dtype=bool)
    # Sorting the values together with their positions is faster than sorting positions by value.
    pairs = np.sort(values.astype(np.uint64) << np.uint64(32) | np.arange(len(values), dtype=np.uint64))
    equal = np.flatnonzero(pairs[1:] >> np.uint64(32) == pairs[:-1] >> np.uint64(32))
    positions = pairs.astype(np.uint32)
    shared[positions[equal]] = True
    shared[positions[equal + 1]] = True
    return shared
