"""Which replies of a reflector are no instruction, or one that gives the held-out rows away."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from ft_pipeline.tables.dedup.tokens import CHARACTER, tokens_of, words_of

MOST_LETTERS = 4000
"""Of an instruction: more would fill the context of a small model."""
RUN = 8
"""So many words in a row, shared with a held-out row and with no train row, are a copy. A whole question of half of
them is one, too."""
RUN_UNSPACED = 16
"""The same, where an instruction has words of a script without spaces: each character is a word there."""
Words = tuple[str, ...]


def why_no_instruction(text: str) -> str:
    """Return what is wrong with a reply, as the end of a sentence; empty if it may be an instruction."""
    if not text:
        return "is empty"
    if len(text) > MOST_LETTERS:
        return f"has {len(text):,} characters, and {MOST_LETTERS:,} are the most"
    try:
        is_json = isinstance(json.loads(text), dict | list)
    except ValueError:
        is_json = False
    return "is JSON" if is_json else ""


class HeldOutTexts:
    """The texts of validation and test rows, which no instruction may contain."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        """rows: those of `conversations`, all splits."""
        self._rows = rows

    @cached_property
    def _held_out(self) -> list[Words]:
        return _words_in(row for row in self._rows if row["split"] != "train")

    @cached_property
    def _train(self) -> list[str]:
        return [_joined(words) for words in _words_in(row for row in self._rows if row["split"] == "train")]

    def copied_words(self, instruction: str) -> str:
        """Return words that an instruction has from a validation or test row; empty if it has none.

        Words that a train row has, too, such as labels and standard answers, are no copy.
        """
        unspaced = any(kind == CHARACTER for _, kind in tokens_of(instruction))
        longest = RUN_UNSPACED if unspaced else RUN
        own = {length: set(_runs(words_of(instruction), length)) for length in range(longest // 2, longest + 1)}
        for text in self._held_out:
            length = min(len(text), longest)
            for run in filter(own.get(length, set()).__contains__, _runs(text, length)):
                if not any(_joined(run) in known for known in self._train):
                    return " ".join(run)
        return ""


def _words_in(rows: Iterable[dict[str, Any]]) -> list[Words]:
    texts = dict.fromkeys(turn["content"] for row in rows for turn in row["messages"] if turn["content"])
    return [words_of(text) for text in texts]


def _runs(words: Words, length: int) -> list[Words]:
    return [words[begin : begin + length] for begin in range(len(words) - length + 1)]


def _joined(words: Words) -> str:
    """Return words as one text in which a run of them is found as a part."""
    return f" {' '.join(words)} "
