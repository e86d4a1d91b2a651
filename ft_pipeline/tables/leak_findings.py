"""What is found of held-out turns in texts, and whether it is a leak."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.matching import first_index

PART, WHOLE, PAIR, ALWAYS = range(4)
"""Kinds of findings: a part of a turn; a question that is a turn of a conversation with others; a question with its
answer after it; what counts however many rows have it: the only question of a document, and a long pair."""
Columns = dict[str, np.ndarray]
MEMBER_TYPES: Mapping[str, type] = {
    "hash": np.uint64,
    "owner": np.int32,
    "turn": np.uint64,
    "part": np.uint16,
    "parts": np.uint16,
}
"""The columns of a sequence of words in a held-out turn. Small types: there are about five of them per held-out row."""


@dataclass(frozen=True)
class Found:
    """What was found in some documents: one entry per finding."""

    document: np.ndarray
    """int64"""
    hash: np.ndarray
    """uint64 of the sequence of words that was found."""
    owner: np.ndarray
    """int32: the lowest owner of the sequence."""
    turn: np.ndarray
    """uint64: the turn that the sequence is a part of. For a PAIR, the last words of its question."""
    part: np.ndarray
    """uint16: its number in the turn."""
    parts: np.ndarray
    """uint16: the number of parts of the turn; 0 for other kinds than PART."""
    kind: np.ndarray
    """uint8: PART, WHOLE, PAIR or ALWAYS."""

    @classmethod
    def join(cls, findings: "Sequence[Found]") -> "Found":
        """Return all findings."""
        columns = ("document", *MEMBER_TYPES, "kind")
        return cls(**{name: np.concatenate([getattr(found, name) for found in findings]) for name in columns})

    @classmethod
    def of(cls, document: np.ndarray, columns: Columns, rows: np.ndarray, kind: int | np.ndarray) -> "Found":
        """Return a finding for each document, with the columns of these rows."""
        values = {name: columns[name][rows] for name in MEMBER_TYPES if name in columns}
        no_parts = np.zeros(len(rows), np.uint16)
        kinds = np.broadcast_to(np.asarray(kind, np.uint8), len(rows))
        return cls(document, **{"turn": values["hash"], "part": no_parts, "parts": no_parts, **values}, kind=kinds)

    def select(self, kept: np.ndarray) -> "Found":
        """Return some of the findings. kept: a bool per finding."""
        return Found(*(getattr(self, name)[kept] for name in ("document", *MEMBER_TYPES, "kind")))

    def leaks(self, common: np.ndarray) -> np.ndarray:
        """Return a bool per finding: whether it is a leak.

        common: the hashes of what many training rows have. It shows nothing, and a turn is counted without the common
        parts of it that the document has. Half of the others must be found.
        """
        is_common = np.isin(self.hash, common)
        leaks = (self.kind == ALWAYS) | ~is_common
        parts = np.flatnonzero(self.kind == PART)
        turns = mix(self.turn[parts] ^ mix(self.document[parts].astype(np.uint64)))
        distinct = first_index(turns * PLACES[0] + self.part[parts].astype(np.uint64)) == np.arange(len(parts))
        _, numbers = np.unique(turns, return_inverse=True)
        own, stock = (
            np.bincount(numbers[distinct & counted], minlength=len(parts))[numbers]
            for counted in (~is_common[parts], is_common[parts])
        )
        leaks[parts] = (own > 0) & (2 * own >= self.parts[parts].astype(np.int64) - stock)
        return leaks

    def lowest_owners(self, leaks: np.ndarray, count: int) -> np.ndarray:
        """Return int64 per document: the lowest owner of its leaks, -1 if it has none. leaks: bool per finding."""
        lowest = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(lowest, self.document[leaks], self.owner[leaks])
        return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)
