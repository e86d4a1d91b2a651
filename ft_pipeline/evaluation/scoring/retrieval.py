"""Retrieval per question, by BM25: examples of the train split, and passages of data/raw/text."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ft_pipeline.models.chat import Message, single_turn_rows
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.text_rules import plain_words

_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+")


class Index:
    """Ranks texts by the words they share with a question (BM25 as in Lucene; Robertson & Zaragoza 2009).

    Words may be in any script. A list of stop words is not needed: BM25 gives words that occur everywhere almost no
    weight.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports each index that it builds
        self._size = len(texts)
        words = [plain_words(text) for text in texts]
        self._known = {word for words_of_text in words for word in words_of_text}
        self._bm25 = bm25s.BM25(method="lucene")
        if self._known:
            self._bm25.index(words, show_progress=False)

    def best(self, question: str, k: int) -> list[int]:
        """Return positions of the `k` best texts (all, if there are fewer), best first; ties in the given order."""
        words = [word for word in plain_words(question) if word in self._known]
        scores = self._bm25.get_scores(words) if words else np.zeros(self._size)
        return np.argsort(-scores, kind="stable")[:k].tolist()


class ExamplePool:
    """The single-turn rows of the train split. The `k` nearest to a question are its examples."""

    def __init__(self, rows: Sequence[dict[str, Any]], k: int, seed: int) -> None:
        """rows: the rows of `conversations`, all splits. Raises UserError if the train split has fewer than `k`."""
        self._examples = [
            tuple(m for m in plain(row["messages"]) if m["role"] != "system") for row in single_turn_rows(rows, k, seed)
        ]
        self._index = Index([asked(example) for example in self._examples])
        self._k = k

    def examples_for(self, messages: Sequence[Message]) -> list[tuple[Message, ...]]:
        """Return the nearest examples. The nearest is last, right before the question."""
        positions = self._index.best(asked(messages), self._k)
        return [self._examples[position] for position in reversed(positions)]


class PassagePool:
    """Passages of texts. The `k` nearest to a question are shown with it."""

    def __init__(self, texts: Sequence[str], rows: Sequence[dict[str, Any]], k: int, words: int) -> None:
        """rows: the rows of `conversations`, all splits. A passage that reveals a held-out answer is left out."""
        passages = [passage for text in texts for passage in passages_of(text, words)]
        self._passages = without_held_out(passages, rows)
        self._index = Index(self._passages)
        self._k = k

    def passages_for(self, messages: Sequence[Message]) -> list[str]:
        """Return the nearest passages, best first."""
        return [self._passages[position] for position in self._index.best(asked(messages), self._k)]


def asked(messages: Sequence[Message]) -> str:
    """Return the search query: every user turn, since a later one may be only an order number."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def without_held_out(passages: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the passages that do not contain a complete held-out row: its questions with its last answer.

    An article with the same facts is what retrieval is for; a log of the same conversation would be a leak.
    """
    held_out = [_turns(row["messages"]) for row in rows if row["split"] != "train"]
    return [
        passage
        for passage, text in zip(passages, map(_folded, passages), strict=True)
        if not any(all(turn in text for turn in turns) for turns in held_out)
    ]


def _turns(messages: Sequence[Message]) -> list[str]:
    """Return the texts that a copy of the conversation would contain: each user turn, and the last answer."""
    return [_folded(message["content"]) for message in messages if message["role"] == "user"] + [
        _folded(messages[-1]["content"])
    ]


def _folded(text: str) -> str:
    """Return the words between single spaces, so that a phrase is a substring."""
    return f" {' '.join(plain_words(text))} "


def passages_of(text: str, words: int) -> list[str]:
    """Split `text` into passages of up to `words` words, at paragraphs, or at sentences if a paragraph is longer.

    A sentence is never cut.
    """
    passages: list[str] = []
    room = 0
    for piece, gap in _pieces(text, words):
        length = len(piece.split())
        if passages and length <= room:
            passages[-1] += gap + piece
            room -= length
        else:
            passages.append(piece)
            room = words - length
    return passages


def _pieces(text: str, words: int) -> list[tuple[str, str]]:
    """Return (piece, separator before it): paragraphs, with long ones split into sentences."""
    pieces = []
    for paragraph in filter(None, (block.strip() for block in re.split(r"\n\s*\n", text))):
        parts = [paragraph] if len(paragraph.split()) <= words else _SENTENCE_END.split(paragraph)
        pieces += [(part, " " if number else "\n\n") for number, part in enumerate(parts)]
    return pieces
