"""64-bit hashes of pieces of text, of windows of consecutive hashes and of whole sequences: the same on every machine.

Sums and products are taken modulo 2**64, as numpy does.
"""

from functools import cache
from hashlib import blake2b

import numpy as np

_LONG_PIECE = 256
"""Bytes. A longer piece is hashed separately."""
# Odd constants: multiplication by them permutes the 64-bit integers, one permutation for each place in a window.
PLACES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_STEP = 0xD6E8FEB86659FD93
"""Odd, so that it has an inverse: the weight of the hash at position i of a sequence is _STEP**i."""
_FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
WINDOW = len(PLACES)
"""Number of consecutive words in a window (a shingle)."""


def mix(values: np.ndarray) -> np.ndarray:
    """Mix all bits of each value (the finalizer of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    return values


def hash_pieces(data: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the uint64 of each piece data[begin : begin + size] of some bytes.

    Eight bytes are hashed at a time. Pieces of equal length up to eight bytes never collide.
    """
    padded = np.zeros(len(data) + 8, dtype=np.uint8)
    padded[: len(data)] = data
    eights = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded, strides=(1,))
    hashes = mix(eights[begins] & _FIRST_BYTES[np.minimum(sizes, 8)] ^ sizes.astype(np.uint64) * PLACES[0])
    for piece in np.flatnonzero(sizes > _LONG_PIECE).tolist():
        digest = blake2b(data[begins[piece] : begins[piece] + sizes[piece]].tobytes(), digest_size=8).digest()
        hashes[piece] = int.from_bytes(digest, "little")
    done, rest = 8, np.flatnonzero((sizes > 8) & (sizes <= _LONG_PIECE))
    while rest.size:
        more = eights[begins[rest] + done] & _FIRST_BYTES[np.minimum(sizes[rest] - done, 8)]
        hashes[rest] = mix(hashes[rest] * PLACES[1] ^ more)
        done += 8
        rest = rest[sizes[rest] > done]
    return hashes


def shingles_of(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 of every 3 consecutive words of each text, int64 number per text).

    hashes, counts: the words of the texts. A text with fewer words gives one shingle, of the words that it has.
    """
    if not len(counts):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    # Zeros after each short text give it one full window.
    padded, padded_counts = _pad(hashes, counts)
    shingles = window_hashes(padded)
    ends = np.cumsum(padded_counts)
    inside = np.ones(len(shingles), dtype=bool)
    for back in range(1, WINDOW):  # exclude windows that would extend into the next text
        starts = ends[:-1] - back
        inside[starts[starts < len(inside)]] = False
    return shingles[inside], padded_counts - (WINDOW - 1)


def _pad(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if counts.min() >= WINDOW:
        return hashes, counts
    padded_counts = np.maximum(counts, WINDOW)
    padded = np.zeros(int(padded_counts.sum()), dtype=np.uint64)
    starts = np.cumsum(padded_counts) - padded_counts
    places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(len(hashes))
    padded[places] = hashes
    return padded, padded_counts


def window_hashes(hashes: np.ndarray) -> np.ndarray:
    """Return the uint64 of every 3 consecutive hashes, also across the ends of texts."""
    total = np.zeros(max(len(hashes) - WINDOW + 1, 0), dtype=np.uint64)
    for place in range(WINDOW):
        total += hashes[place : place + len(total)] * PLACES[place]
    return mix(total)


class SpanHashes:
    """Hashes of any spans of a sequence, each in constant time. Equal spans have equal hashes, wherever they are."""

    def __init__(self, hashes: np.ndarray) -> None:
        weights, self._inverse_weights = _weights(_rounded_up(len(hashes) + 1))
        self._sums = np.zeros(len(hashes) + 1, dtype=np.uint64)
        np.cumsum(hashes * weights[: len(hashes)], out=self._sums[1:])

    def of(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the uint64 of each span begin <= i < end."""
        sums = (self._sums[ends] - self._sums[begins]) * self._inverse_weights[begins]
        return mix(sums ^ (ends - begins).astype(np.uint64) * PLACES[0])

    def windows(self, size: int) -> np.ndarray:
        """Return the uint64 of every `size` consecutive hashes, as `of` does, without their positions in memory."""
        count = max(len(self._sums) - size, 0)
        sums = (self._sums[size:] - self._sums[:count]) * self._inverse_weights[:count]
        return mix(sums ^ np.full(1, size, dtype=np.uint64) * PLACES[0])


def run_starts(ordered: np.ndarray) -> np.ndarray:
    """Return the position of the first of each run of equal values."""
    return np.flatnonzero(np.concatenate([np.ones(min(len(ordered), 1), dtype=bool), ordered[1:] != ordered[:-1]]))


def _rounded_up(size: int) -> int:
    return 1 << max(size - 1, 1).bit_length()


@cache
def _weights(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (powers of _STEP, powers of its inverse), both from the power 0."""
    powers = []
    for step in (_STEP, pow(_STEP, -1, 1 << 64)):
        factors = np.full(size, step, dtype=np.uint64)
        factors[0] = 1
        powers.append(np.cumprod(factors, dtype=np.uint64))
    return powers[0], powers[1]
