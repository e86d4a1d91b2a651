"""Hashes of words and of consecutive words, one block of texts at a time with numpy; the same on every machine."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SHINGLE_WORDS = 3
BLOCK_BYTES = 1 << 17
"""Bytes of text per block: numpy's arrays for a block stay in the processor's cache (twice as fast)."""
_LONG_WORD = 256
"""Bytes. A longer word is hashed separately."""
# Odd constants: multiplication by them permutes the 64-bit integers, one permutation for each place in the shingle.
PLACES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
_NOTHING = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)

Texts: TypeAlias = "Sequence[str] | pa.Array"
"""Python strings, or a large_string array."""


def shingle(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 shingles of all texts, int64 number per text). A text of fewer than 3 words is one shingle."""
    return windows_of(texts, SHINGLE_WORDS)


def windows_of(texts: Texts, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 hashes of every `size` consecutive words of all texts, int64 number per text).

    Single spaces separate words. A text with fewer words gives one hash, of the words that it has.
    """
    parts = [windows(hashes, counts, size) for hashes, counts in _word_hashes(texts)]
    if not parts:
        return _NOTHING
    flat, lengths = zip(*parts, strict=True)
    return np.concatenate(flat), np.concatenate(lengths)


def word_hashes(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 of every word, int64 number of words per text). Single spaces separate words."""
    parts = list(_word_hashes(texts))
    if not parts:
        return _NOTHING
    hashes, counts = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(counts)


def _word_hashes(texts: Texts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    # With a space after each text, every word ends at a space.
    ended = pc.binary_join_element_wise(array, pa.scalar("", array.type), pa.scalar(" ", array.type))
    offsets, data = buffers(ended)
    begin = 0
    while begin < len(array):
        end = max(int(np.searchsorted(offsets, offsets[begin] + BLOCK_BYTES, side="right")) - 1, begin + 1)
        block = data[offsets[begin] : offsets[end]]
        spaces = np.flatnonzero(block == 0x20)
        counts = np.diff(np.searchsorted(spaces, offsets[begin : end + 1] - offsets[begin]))
        yield _hash_words(block, spaces), counts
        begin = end


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 offsets, uint8 data) of a large_string array: text i is data[offsets[i]:offsets[i + 1]]."""
    _, offsets, data = texts.buffers()
    positions = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return positions, np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, np.uint8)


def _hash_words(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the uint64 of each word. `ends`: the spaces that end the words.

    Eight bytes are hashed at a time. Words of equal length up to eight bytes never collide.
    """
    begins = np.zeros_like(ends)
    begins[1:] = ends[:-1] + 1
    sizes = ends - begins
    padded = np.zeros(len(data) + 8, dtype=np.uint8)
    padded[: len(data)] = data
    eights = np.ndarray((len(data) + 1,), dtype="<u8", buffer=padded, strides=(1,))
    hashes = mix(eights[begins] & _FIRST_BYTES[np.minimum(sizes, 8)] ^ sizes.astype(np.uint64) * PLACES[0])
    for word in np.flatnonzero(sizes > _LONG_WORD).tolist():
        digest = blake2b(data[begins[word] : ends[word]].tobytes(), digest_size=8).digest()
        hashes[word] = int.from_bytes(digest, "little")
    done, rest = 8, np.flatnonzero((sizes > 8) & (sizes <= _LONG_WORD))
    while rest.size:
        more = eights[begins[rest] + done] & _FIRST_BYTES[np.minimum(sizes[rest] - done, 8)]
        hashes[rest] = mix(hashes[rest] * PLACES[1] ^ more)
        done += 8
        rest = rest[sizes[rest] > done]
    return hashes


def windows(hashes: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hashes of every `size` consecutive words, number per text). A text with fewer words gives one hash."""
    if not len(counts):
        return _NOTHING
    # Zeros after each short text give it one full window.
    padded, padded_counts = _pad(hashes, counts, size)
    multipliers = np.array([PLACES[place % 3] + np.uint64(2 * (place // 3)) for place in range(size)], dtype=np.uint64)
    total = np.zeros(max(len(padded) - size + 1, 0), dtype=np.uint64)
    for place in range(size):
        total += padded[place : place + len(total)] * multipliers[place]
    ends = np.cumsum(padded_counts)
    inside = np.ones(len(total), dtype=bool)
    for back in range(1, size):  # exclude windows that would extend into the next text
        starts = ends[:-1] - back
        inside[starts[starts < len(inside)]] = False
    return mix(total[inside]), padded_counts - (size - 1)


def _pad(hashes: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    if counts.min() >= size:
        return hashes, counts
    padded_counts = np.maximum(counts, size)
    padded = np.zeros(int(padded_counts.sum()), dtype=np.uint64)
    starts = np.cumsum(padded_counts) - padded_counts
    places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(len(hashes))
    padded[places] = hashes
    return padded, padded_counts


def mix(values: np.ndarray) -> np.ndarray:
    """Mix all bits of each value (the finalizer of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    return values
