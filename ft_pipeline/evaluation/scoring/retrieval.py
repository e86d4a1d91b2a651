"""Retrieve examples from the train split, and passages from data/raw/text, for each question by BM25."""

import logging
import re
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from ft_pipeline.models.chat import Message, single_turn_rows
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.formats.turns import plain

_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+")


class TextIndex:
    """Ranks texts by the words they share with a question (BM25 as in Lucene; Robertson & Zaragoza 2009).

    Words may be in any script. A list of stop words is not needed: BM25 gives words that occur everywhere almost no
    weight.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports each index that it builds
        self._size = len(texts)
        words = [list(words_of(text)) for text in texts]
        self._vocabulary = {word for text_words in words for word in text_words}
        self._bm25 = bm25s.BM25(method="lucene")
        if self._vocabulary:
            self._bm25.index(words, show_progress=False)

    def search(self, question: str, k: int) -> list[int]:
        """Return the positions of the `k` best texts, best first; of all texts if there are fewer.

        Texts with equal scores keep their order.
        """
        words = [word for word in words_of(question) if word in self._vocabulary]
        scores = self._bm25.get_scores(words) if words else np.zeros(self._size)
        return np.argsort(-scores, kind="stable")[:k].tolist()


class ExamplePool:
    """The single-turn rows of the train split. The `k` nearest to a question are its examples."""

    def __init__(self, rows: Sequence[dict[str, Any]], k: int, seed: int) -> None:
        """rows: the rows of `conversations`, all splits. Raises UserError if the train split has fewer than `k`."""
        self.examples: list[tuple[Message, ...]] = [
            tuple(message for message in plain(row["messages"]) if message["role"] != "system")
            for row in single_turn_rows(rows, k, seed)
        ]
        self._index = TextIndex([search_query(example) for example in self.examples])
        self._k = k

    def examples_for(self, messages: Sequence[Message]) -> list[tuple[Message, ...]]:
        """Return the nearest examples. The nearest one is last, right before the question."""
        positions = self._index.search(search_query(messages), self._k)
        return [self.examples[position] for position in reversed(positions)]

    def showing(self, k: int) -> "ExamplePool":
        """Return the same pool of `k` examples per question."""
        changed = copy(self)
        changed._k = k
        return changed

    def with_fewer(self) -> "ExamplePool | None":
        """Return the same pool of one example less per question; None after the last one."""
        return self.showing(self._k - 1) if self._k > 1 else None


class PassagePool:
    """Passages of texts. The `k` nearest to a question are added to its prompt."""

    def __init__(self, texts: Sequence[str], k: int, max_words: int) -> None:
        """texts: without those that show a held-out row (tables.held_out)."""
        self.passages = [passage for text in texts for passage in split_into_passages(text, max_words)]
        self._index = TextIndex(self.passages)
        self._k = k

    def passages_for(self, messages: Sequence[Message]) -> list[str]:
        """Return the nearest passages, best first."""
        return [self.passages[position] for position in self._index.search(search_query(messages), self._k)]


def search_query(messages: Sequence[Message]) -> str:
    """Return the search query of a conversation: every user turn, since the last one may be only an order number."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def split_into_passages(text: str, max_words: int) -> list[str]:
    """Split `text` into passages of up to `max_words` words, at paragraphs, or at sentences if a paragraph is longer.

    A sentence is never cut: one with more words is a passage by itself.
    """
    passages: list[str] = []
    words_left = 0
    for piece, separator in _pieces(text, max_words):
        length = len(piece.split())
        if passages and length <= words_left:
            passages[-1] += separator + piece
            words_left -= length
        else:
            passages.append(piece)
            words_left = max_words - length
    return passages


def _pieces(text: str, max_words: int) -> list[tuple[str, str]]:
    """Return paragraphs, with long ones split into sentences, each with the separator from the piece before it."""
    pieces = []
    for paragraph in filter(None, (block.strip() for block in re.split(r"\n\s*\n", text))):
        sentences = [paragraph] if len(paragraph.split()) <= max_words else _SENTENCE_END.split(paragraph)
        pieces += [(sentence, " " if position else "\n\n") for position, sentence in enumerate(sentences)]
    return pieces
