"""Sequences of words that are searched in texts, each by its rarest window of words."""

from collections.abc import Mapping, Sequence

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, SpanHashes, mix, window_hashes
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.tokens import Tokens
from ft_pipeline.tables.leak_findings import MEMBER_TYPES, PART, Columns, Found

MAX_NEEDLES = 64
"""Number of sequences with the same rarest window that are compared: a limit for hostile data."""
MAX_TURNS = 16
"""Number of turns that may have a sequence. One that more held-out turns have is a stock sentence."""
_FILTER_BITS = range(16, 30)
"""The first test of a window is a table of so many bits of its hash that about one of 32 windows passes by chance. The
table itself has one bit per entry, so that it stays in the processor's cache."""
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each sequence by a rare one."""
_NEEDLE_TYPES: Mapping[str, type] = {"anchor": np.uint64, "offset": np.uint8, "length": np.uint8, "hash": np.uint64}
SEQUENCE_TYPES = {**_NEEDLE_TYPES, **MEMBER_TYPES}
"""The columns of a sequence that is searched."""


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


_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)


class Needles:
    """Sequences of words to be found, each by its rarest window, and the turns that have them."""

    def __init__(self, parts: Sequence[Columns]) -> None:
        members = [
            {name: part["hash"] if name == "hash" else part.pop(name) for name in MEMBER_TYPES} for part in parts
        ]
        self.columns = gather(parts, _NEEDLE_TYPES, "anchor", "anchor", "hash", "length")
        self.members = _without_stock(gather(members, MEMBER_TYPES, "hash", "hash", "turn", "part"))
        self._anchors = self.columns["anchor"]
        bits = min(max((32 * len(self._anchors)).bit_length(), _FILTER_BITS[0]), _FILTER_BITS[-1])
        self._filter_mask = np.uint64((1 << bits) - 1)
        self._filter = np.zeros(1 << (bits - 3), dtype=np.uint8)
        places = self._anchors & self._filter_mask
        np.bitwise_or.at(self._filter, places >> np.uint64(3), _BIT[places & np.uint64(7)])

    def __len__(self) -> int:
        return len(self._anchors)

    def find(self, words: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (text, needle, position after its last word) of each occurrence."""
        if not len(self):
            return _NOTHING
        windows = window_hashes(words.hashes)
        bits = windows & self._filter_mask
        places = np.flatnonzero(self._filter[bits >> np.uint64(3)] & _BIT[bits & np.uint64(7)])
        places = places[np.argsort(windows[places])]  # in order of the windows, the search stays in the cache
        first = np.searchsorted(self._anchors, windows[places])
        known = np.flatnonzero(self._anchors[np.minimum(first, len(self._anchors) - 1)] == windows[places])
        places, first = places[known], first[known]
        last = np.searchsorted(self._anchors, windows[places], side="right")
        numbers = np.minimum(last - first, MAX_NEEDLES)
        needles = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
        places = np.repeat(places, numbers)
        begins = places - self.columns["offset"][needles].astype(np.int64)
        ends = begins + self.columns["length"][needles].astype(np.int64)
        texts = np.searchsorted(words.ends, places, side="right")
        inside = (begins >= words.begins[texts]) & (ends <= words.ends[texts])
        texts, needles, begins, ends = texts[inside], needles[inside], begins[inside], ends[inside]
        equal = SpanHashes(words.hashes).of(begins, ends) == self.columns["hash"][needles]
        return texts[equal], needles[equal], ends[equal]

    def turns_of(self, documents: np.ndarray, needles: np.ndarray) -> "Found":
        """Return a finding for each turn that has a needle that was found in a document."""
        hits, rows = ranges_of(self.members["hash"], self.columns["hash"][needles], MAX_TURNS)
        return Found.of(documents[hits], self.members, rows, PART)


def ranges_of(ordered: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (index of a value, place in `ordered` where it is), for at most so many places of each value."""
    first, last = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    numbers = np.minimum(last - first, most)
    places = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
    return np.repeat(np.arange(len(values)), numbers), places


def _without_stock(members: Columns) -> Columns:
    """Remove the sequences that more than MAX_TURNS turns have, and count these turns without them."""
    starts = np.flatnonzero(np.concatenate([[True], members["hash"][1:] != members["hash"][:-1]]))
    sizes = np.diff(np.append(starts, len(members["hash"]))) if len(members["hash"]) else np.empty(0, np.int64)
    if not (sizes > MAX_TURNS).any():
        return members
    is_stock = np.repeat(sizes > MAX_TURNS, sizes)
    turns, counts = np.unique(members["turn"][is_stock], return_counts=True)
    places = np.minimum(np.searchsorted(turns, members["turn"]), len(turns) - 1)
    removed = np.where(turns[places] == members["turn"], counts[places], 0)
    members["parts"] = np.maximum(members["parts"] - removed, 1).astype(np.uint16)
    return {name: column[~is_stock] for name, column in members.items()}


def make_needles(sequences: Tokens, **columns: np.ndarray) -> Columns:
    """Return the columns of Needles for sequences of at least WINDOW words. columns: owner, turn, part, parts."""
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
        **{name: column.astype(MEMBER_TYPES[name]) for name, column in columns.items()},
    }
