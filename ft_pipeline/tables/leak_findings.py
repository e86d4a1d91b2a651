"""What is found of held-out turns in texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

WHOLE, PAIR, ALWAYS = range(3)
"""Kinds of findings: a question that is a turn of a conversation with others, or the end of a turn; a question with its
answer after it; what counts however many rows have it: the only question of a document, and a long pair."""
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """What was found in some documents: questions as they are, and windows of words."""

    document: np.ndarray
    """int64, of each question that was found."""
    hash: np.ndarray
    """uint64 of its words, for a PAIR with those of its answer."""
    owner: np.ndarray
    """int32: the lowest owner of the question."""
    asked: np.ndarray
    """uint64: its last words."""
    kind: np.ndarray
    """uint8: WHOLE, PAIR or ALWAYS."""
    window_document: np.ndarray
    """int32, of each window that was found, ascending."""
    window: np.ndarray
    """int32: its number in the index."""
    place: np.ndarray
    """int32: its position in the document, in words."""

    @classmethod
    def join(cls, findings: "Sequence[Found]") -> "Found":
        """Return all findings."""
        columns = (*_QUESTIONS, *_WINDOWS)
        return cls(**{name: np.concatenate([getattr(found, name) for found in findings]) for name in columns})

    @classmethod
    def questions(
        cls, document: np.ndarray, hashes: np.ndarray, owner: np.ndarray, asked: np.ndarray, kind: np.ndarray | int
    ) -> "Found":
        """Return findings of questions."""
        kinds = np.broadcast_to(np.asarray(kind, np.uint8), len(document))
        return cls(document, hashes, owner, asked, kinds, *(np.empty(0, np.int32) for _ in _WINDOWS))

    @classmethod
    def windows(cls, document: np.ndarray, window: np.ndarray, place: np.ndarray) -> "Found":
        """Return findings of windows."""
        nothing = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint64)
        found = (column.astype(np.int32) for column in (document, window, place))
        return cls(*nothing, np.empty(0, np.uint8), *found)

    def in_documents(self, documents: np.ndarray) -> "Found":
        """Return the findings with other numbers of the documents. documents: the new number of each one."""
        window_document = documents[self.window_document].astype(np.int32)
        return replace(self, document=documents[self.document], window_document=window_document)

    def select(self, documents: np.ndarray) -> "Found":
        """Return the findings in some documents. documents: bool per document."""
        return self.select_windows(documents[self.window_document]).select_questions(documents[self.document])

    def select_questions(self, kept: np.ndarray) -> "Found":
        """Return the findings with some of the questions. kept: bool for each."""
        return replace(self, **{name: getattr(self, name)[kept] for name in _QUESTIONS})

    def select_windows(self, kept: np.ndarray) -> "Found":
        """Return the findings with some of the windows. kept: bool for each, or their positions."""
        return replace(self, **{name: getattr(self, name)[kept] for name in _WINDOWS})


_QUESTIONS = ("document", "hash", "owner", "asked", "kind")
_WINDOWS = ("window_document", "window", "place")
