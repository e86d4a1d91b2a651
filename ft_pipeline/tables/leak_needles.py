"""Sequences of words that are searched in texts as they are, each by its rarest window of words."""

from collections.abc import Mapping, Sequence

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, mix, window_hashes
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.tokens import Tokens
from ft_pipeline.tables.dedup.windows import HashFilter
from ft_pipeline.tables.leak_findings import Columns

MAX_NEEDLES = 64
"""Number of sequences with the same rarest window that are compared: a limit for hostile data."""
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each sequence by a rare one."""
_NEEDLE_TYPES: Mapping[str, type] = {"anchor": np.uint64, "offset": np.uint8, "length": np.uint8, "hash": np.uint64}


def gather(parts: Sequence[Columns], types: Mapping[str, type], sort_by: str, *distinct: str) -> Columns:
    """Return the columns of all parts, sorted. Of rows with equal `distinct` columns, one, with the lowest owner.

    To save memory, the parts lose their columns.
    """
    columns = {
        name: np.concatenate([part.pop(name) for part in parts]) if parts else np.empty(0, dtype)
        for name, dtype in types.items()
    }
    keys = np.zeros(len(columns[sort_by]), dtype=np.uint64)
    for name in distinct:
        keys = mix(keys * PLACES[0] + columns[name].astype(np.uint64))
    first = first_index(keys)
    if "owner" in columns:
        np.minimum.at(columns["owner"], first, columns["owner"].copy())
    kept = np.flatnonzero(first == np.arange(len(keys)))
    order = kept[np.argsort(columns[sort_by][kept], kind="stable")]
    return {name: columns.pop(name)[order] for name in types}


_NOTHING = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)


class Needles:
    """Sequences of words to be found, each by its rarest window."""

    def __init__(self, parts: Sequence[Columns]) -> None:
        self.columns = gather(parts, _NEEDLE_TYPES, "anchor", "anchor", "hash", "length")
        self._anchors = self.columns["anchor"]
        self._filter = HashFilter(self._anchors)

    def __len__(self) -> int:
        return len(self._anchors)

    def find(self, words: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (text, uint64 of the sequence, position of its first word, position after its last word) of each
        occurrence."""
        if not len(self):
            return _NOTHING
        windows = window_hashes(words.hashes)
        places = self._filter.passing(windows)
        places = places[np.argsort(windows[places])]  # in order of the windows, the search stays in the cache
        hits, needles = ranges_of(self._anchors, windows[places], MAX_NEEDLES)
        places = places[hits]
        begins = places - self.columns["offset"][needles].astype(np.int64)
        ends = begins + self.columns["length"][needles].astype(np.int64)
        texts = words.text_of(places)
        inside = (begins >= words.begins[texts]) & (ends <= words.ends[texts])
        texts, needles, begins, ends = texts[inside], needles[inside], begins[inside], ends[inside]
        hashes = self.columns["hash"][needles]
        equal = words.span_hashes.of(begins, ends) == hashes
        return texts[equal], hashes[equal], begins[equal], ends[equal]


def ranges_of(ordered: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (index of a value, place in `ordered` where it is), for at most so many places of each value."""
    first, last = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    numbers = np.minimum(last - first, most)
    places = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
    return np.repeat(np.arange(len(values)), numbers), places


def make_needles(sequences: Tokens) -> Columns:
    """Return the columns of Needles for sequences of at least WINDOW words."""
    begins, ends = sequences.begins, sequences.ends
    windows = window_hashes(sequences.hashes)
    places = (windows & np.uint64((1 << _RARITY_BITS) - 1)).astype(np.int64)
    frequencies = np.bincount(places, minlength=1 << _RARITY_BITS)
    costs = np.full(len(sequences.hashes), np.iinfo(np.int64).max)
    costs[: len(windows)] = frequencies[places]
    for back in range(1, WINDOW):  # a window that begins here would extend into the next sequence
        costs[ends - back] = np.iinfo(np.int64).max
    is_rarest = costs == np.repeat(np.minimum.reduceat(costs, begins), sequences.counts)
    anchors = np.minimum.reduceat(np.where(is_rarest, np.arange(len(costs)), len(costs)), begins)
    return {
        "anchor": windows[anchors],
        "offset": (anchors - begins).astype(np.uint8),
        "length": sequences.counts.astype(np.uint8),
        "hash": sequences.hash_each(),
    }
