"""Which rows say the same as an erased row, in any format: equal, near, containing it, or contained in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from ft_pipeline.tables.dedup.shingles import shingle_words
from ft_pipeline.tables.dedup.tokens import CHARACTER, tokens_of, words_of
from ft_pipeline.tables.text_rules import normalise

SHINGLE_WORDS = 3
NEAR_SHARE = 0.9
"""Jaccard similarity of the shingle sets from which two rows are near copies, as in the tables."""
MIN_CONTAINED_CHARS = 20
"""A row that says less (a greeting, "Yes, it is.") is no copy because a longer row contains it. A character of a script
without spaces counts twice."""

MIN_BEGINNING = 0.25
"""Share of a row's words that a broken row must have to be a copy of its beginning."""

Words = tuple[str, ...]


class PhraseIndex:
    """Finds which of many phrases (sequences of words) occur in a text."""

    def __init__(self, phrases: Iterable[Words]) -> None:
        self._by_start: dict[Words, list[Words]] = {}
        for phrase in set(phrases) - {()}:
            self._by_start.setdefault(phrase[:SHINGLE_WORDS], []).append(phrase)
        self._sizes = sorted({len(start) for start in self._by_start})

    def found_in(self, words: Words) -> set[Words]:
        """Return the phrases that `words` contains."""
        return {
            phrase
            for size in self._sizes
            for start in range(len(words) - size + 1)
            for phrase in self._by_start.get(words[start : start + size], ())
            if words[start : start + len(phrase)] == phrase
        }


@dataclass(frozen=True)
class Content:
    """What the people and models of a row say: its turns, without those of the system."""

    asked: tuple[str, ...]
    """The turns of people."""
    answered: tuple[str, ...]
    """All other turns and texts."""

    @cached_property
    def questions(self) -> tuple[Words, ...]:
        """The words of each turn of people."""
        return tuple(filter(None, map(words_of, self.asked)))

    @cached_property
    def turns(self) -> tuple[Words, ...]:
        """The words of each turn and text, those of people first."""
        return self.questions + tuple(filter(None, map(words_of, self.answered)))

    @cached_property
    def words(self) -> Words:
        return tuple(chain.from_iterable(self.turns))

    @cached_property
    def shingles(self) -> tuple[set[Words], set[Words]]:
        """Sequences of three words: without punctuation, and with it as in the tables. Fewer words are one shingle."""
        written = " ".join(normalise(turn) for turn in self.asked + self.answered)
        return _shingles(self.words), _shingles(tuple(shingle_words(written)))

    @cached_property
    def is_distinctive(self) -> bool:
        """Whether it says enough to be recognized inside a longer row."""
        tokens = tokens_of(" ".join(self.words))
        return sum(2 if kind == CHARACTER else len(word) for word, kind in tokens) >= MIN_CONTAINED_CHARS

    def is_near(self, other: "Content") -> bool:
        """Return whether the two have nearly the same shingles."""
        smaller, larger = sorted((len(self.words), len(other.words)))
        if smaller < 0.7 * larger:  # the shingle sets of so different lengths cannot be near
            return False
        pairs = zip(self.shingles, other.shingles, strict=True)
        return any(len(ours & theirs) >= NEAR_SHARE * len(ours | theirs) for ours, theirs in pairs)


def _shingles(words: Words) -> set[Words]:
    count = max(len(words) - SHINGLE_WORDS + 1, 1)
    return {words[start : start + SHINGLE_WORDS] for start in range(count)}


class ErasedContents:
    """The contents of the rows to erase."""

    def __init__(self, contents: Iterable[Content]) -> None:
        self._contents = [content for content in contents if content.turns]
        self._turns = PhraseIndex(turn for content in self._contents for turn in content.turns)
        self._starts = {
            content.words[start : start + size]
            for content in self._contents
            for size in range(1, SHINGLE_WORDS + 1)
            for start in range(len(content.words) - size + 1)
        }

    def has_copy(self, row: Content) -> bool:
        """Return whether a row equals or is near to an erased row, or contains all of its turns."""
        found = self._turns.found_in(row.words)
        return any(
            row.words == erased.words
            or row.is_near(erased)
            or (erased.is_distinctive and found.issuperset(erased.turns))
            for erased in self._contents
        )

    def begins_like(self, row: Content) -> bool:
        """Return whether an erased row begins with this one, which is broken: its last word may be cut off."""
        words = row.words[:-1]
        return row.is_distinctive and any(
            len(words) >= MIN_BEGINNING * len(erased.words) and erased.words[: len(words)] == words
            for erased in self._contents
        )

    def has_fragment(self, row: Content) -> bool:
        """Return whether an erased row contains every turn of this row, and its people say one of them.

        An answer alone may be a sentence of a handbook, and no text of a person.
        """
        if not (self._starts.issuperset(turn[:SHINGLE_WORDS] for turn in row.turns) and row.is_distinctive):
            return False
        turns = PhraseIndex(row.turns)
        return any(
            turns.found_in(erased.words).issuperset(row.turns)
            and turns.found_in(tuple(chain.from_iterable(erased.questions or erased.turns)))
            for erased in self._contents
        )
