"""What a prompt may look up for each question: examples of the train split, and passages of data/raw/text, by BM25."""

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
    """Texts that are found by the words they share with a question (BM25 as Lucene scores it; Robertson & Zaragoza
    2009). Words of any script, no list of stop words: what stands everywhere weighs next to nothing by itself."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it reports each index that it builds
        self._size = len(texts)
        words = [plain_words(text) for text in texts]
        self._known = {word for each in words for word in each}
        self._bm25 = bm25s.BM25(method="lucene")
        if self._known:
            self._bm25.index(words, show_progress=False)

    def best(self, question: str, k: int) -> list[int]:
        """Positions of the `k` texts that fit best (of all, where there are fewer), best first; ties as given."""
        words = [word for word in plain_words(question) if word in self._known]
        scores = self._bm25.get_scores(words) if words else np.zeros(self._size)
        return np.argsort(-scores, kind="stable")[:k].tolist()


class ExamplePool:
    """The single-turn rows of the train split, of which the `k` nearest to a question are its examples."""

    def __init__(self, rows: Sequence[dict[str, Any]], k: int, seed: int) -> None:
        """rows: of `conversations`, every split. UserError where the train split has fewer than `k`."""
        self._examples = [
            tuple(m for m in plain(row["messages"]) if m["role"] != "system") for row in single_turn_rows(rows, k, seed)
        ]
        self._index = Index([asked(example) for example in self._examples])
        self._k = k

    def examples_for(self, messages: Sequence[Message]) -> list[tuple[Message, ...]]:
        """The nearest examples, the very nearest last: right before the question."""
        found = self._index.best(asked(messages), self._k)
        return [self._examples[position] for position in reversed(found)]


class PassagePool:
    """Passages of texts, of which the `k` nearest to a question are shown with it."""

    def __init__(self, texts: Sequence[str], rows: Sequence[dict[str, Any]], k: int, words: int) -> None:
        """rows: of `conversations`, every split; what would give a held-out answer away is never shown."""
        found = [passage for text in texts for passage in passages_of(text, words)]
        self._passages = without_held_out(found, rows)
        self._index = Index(self._passages)
        self._k = k

    def passages_for(self, messages: Sequence[Message]) -> list[str]:
        """The nearest passages, best first."""
        return [self._passages[position] for position in self._index.best(asked(messages), self._k)]


def asked(messages: Sequence[Message]) -> str:
    """What is looked up: every user turn, since a later one may be no more than an order number."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def without_held_out(passages: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The passages that do not hold a row of another split than train whole: its questions with its last answer.

    An article that says the same is what retrieval is for; a log of the very conversation would be a leak.
    """
    held_out = [_turns(row["messages"]) for row in rows if row["split"] != "train"]
    return [
        passage
        for passage, text in zip(passages, map(_folded, passages), strict=True)
        if not any(all(turn in text for turn in turns) for turns in held_out)
    ]


def _turns(messages: Sequence[Message]) -> list[str]:
    """What a copy of the conversation would hold of it: each user turn, and the last answer."""
    return [_folded(message["content"]) for message in messages if message["role"] == "user"] + [
        _folded(messages[-1]["content"])
    ]


def _folded(text: str) -> str:
    """Words between single spaces, so that a phrase is found as a substring."""
    return f" {' '.join(plain_words(text))} "


def passages_of(text: str, words: int) -> list[str]:
    """`text` in passages of up to `words` words that begin and end at paragraphs, or at sentences where one paragraph
    is longer; a single sentence is never cut."""
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
    """(piece, what stands between it and the one before it): paragraphs, the long ones by sentence."""
    pieces = []
    for paragraph in filter(None, (each.strip() for each in re.split(r"\n\s*\n", text))):
        parts = [paragraph] if len(paragraph.split()) <= words else _SENTENCE_END.split(paragraph)
        pieces += [(part, " " if number else "\n\n") for number, part in enumerate(parts)]
    return pieces
