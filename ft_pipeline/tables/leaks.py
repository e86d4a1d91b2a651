"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn is found by any of its parts of 13 words, also with other numbers and names. A short question is found as a
whole turn, or with its answer after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import WINDOW, SpanHashes, window_hashes
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.templates import (
    MASK,
    MIN_LONG_WORDS,
    are_numbers,
    first_words,
    mask,
    sizes_of,
    template_hashes,
    without_signs,
)
from ft_pipeline.tables.dedup.tokens import DIGITS, NAME, NUMBER, SIGN, Tokens

QUESTION, ANSWER = range(2)
"""Roles of held-out turns."""
PART_WORDS = 13
"""Number of words in a part of a long turn. Characters of scripts without spaces count half."""
MIN_QUESTION_WORDS = 8
"""Number of words from which a question that is too short for a part is searched inside other texts."""
MIN_TURN_WORDS = 3
"""Number of words from which a question is found as a turn of a longer conversation ("Hello" is no question), and
together with its answer."""
ANSWER_GAP = 8
"""Largest number of words between a short question and its answer ("A:", a name, a time)."""
MAX_ANSWERS = 16
"""Number of answers of one short question that are compared."""
MAX_NEEDLES = 64
"""Number of sequences with the same rarest window that are compared: a limit for hostile data."""
_FILTER_BITS = 22
"""The first test of a window is a table of this many bits of its hash."""
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each sequence by a rare one."""
_NEEDLE_TYPES: Mapping[str, type] = {
    "anchor": np.uint64,
    "offset": np.int32,
    "length": np.int32,
    "hash": np.uint64,
    "owner": np.int64,
}
_PAIR_TYPES: Mapping[str, type] = {"question": np.uint64, "length": np.int32, "hash": np.uint64, "owner": np.int64}
_TURN_TYPES: Mapping[str, type] = {"key": np.uint64, "owner": np.int64, "size": np.float64}
Columns = dict[str, np.ndarray]


def _gather(parts: Sequence[Columns], types: Mapping[str, type], sort_by: str, *distinct: str) -> Columns:
    """Return the columns of all parts, sorted. Of rows with equal `distinct` columns, the one with the lowest owner."""
    columns = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0, dtype)
        for name, dtype in types.items()
    }
    order = np.lexsort((columns["owner"], *(columns[name] for name in distinct), columns[sort_by]))
    columns = {name: column[order] for name, column in columns.items()}
    keys = np.zeros(len(order), dtype=np.uint64)
    for name in distinct:
        keys = keys * MASK + columns[name].astype(np.uint64)
    kept = first_index(keys) == np.arange(len(keys))
    return {name: column[kept] for name, column in columns.items()}


class _Needles:
    """Sequences of words to be found, each by its rarest window."""

    def __init__(self, parts: Sequence[Columns], left_out: np.ndarray) -> None:
        columns = _gather(parts, _NEEDLE_TYPES, "anchor", "anchor", "hash", "length")
        kept = ~np.isin(columns["hash"], left_out)
        self.columns = {name: column[kept] for name, column in columns.items()}
        self._anchors = self.columns["anchor"]
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._filter[_low_bits(self._anchors)] = True

    def __len__(self) -> int:
        return len(self._anchors)

    def find(self, words: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (text, needle, position after its last word) of each occurrence."""
        windows = window_hashes(words.hashes)
        places = np.flatnonzero(self._filter[_low_bits(windows)])
        first, last = (np.searchsorted(self._anchors, windows[places], side=side) for side in ("left", "right"))
        numbers = np.minimum(last - first, MAX_NEEDLES)
        needles = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
        places = np.repeat(places, numbers)
        begins = places - self.columns["offset"][needles]
        ends = begins + self.columns["length"][needles]
        texts = np.searchsorted(words.ends, places, side="right")
        inside = (begins >= words.begins[texts]) & (ends <= words.ends[texts])
        texts, needles, begins, ends = texts[inside], needles[inside], begins[inside], ends[inside]
        equal = SpanHashes(words.hashes).of(begins, ends) == self.columns["hash"][needles]
        return texts[equal], needles[equal], ends[equal]


def _low_bits(hashes: np.ndarray) -> np.ndarray:
    return hashes & np.uint64((1 << _FILTER_BITS) - 1)


def _make_needles(sequences: Tokens, owners: np.ndarray) -> Columns:
    """Return the columns of _Needles for sequences of at least WINDOW words."""
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
        "offset": (anchors - begins).astype(np.int32),
        "length": sequences.counts.astype(np.int32),
        "hash": sequences.hash_each(),
        "owner": owners,
    }


def _parts_of(words: Tokens) -> tuple[Tokens, np.ndarray]:
    """Return (the parts of PART_WORDS words of the texts, the text of each): one after the other, and the last one."""
    sizes = sizes_of(words)
    texts = np.flatnonzero(sizes >= PART_WORDS)
    counts = words.counts[texts]
    lengths = np.minimum(np.ceil(PART_WORDS * counts / sizes[texts]).astype(np.int64), counts)
    numbers = -(-counts // lengths)
    owners = np.repeat(np.arange(len(texts)), numbers)
    steps = np.arange(int(numbers.sum())) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    begins = np.minimum(steps * lengths[owners], (counts - lengths)[owners])
    return words.spans(words.begins[texts][owners] + begins, lengths[owners]), texts[owners]


def _turn_keys(tokens: Tokens, with_templates: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 keys, the text of each key): of the words, and of the template if there is one.

    Between numbers, signs have a meaning: then they are part of the key, but for those at the begin and end.
    """
    has_digit = tokens.per_text((tokens.kinds == DIGITS) | (tokens.kinds == NUMBER)) > 0
    keys = np.where(has_digit, _without_outer_signs(tokens).hash_each(), without_signs(tokens).hash_each())
    if not with_templates:
        return keys, np.arange(len(tokens))
    templates, is_template = template_hashes(tokens)
    texts = np.flatnonzero(is_template)
    return np.concatenate([keys, templates[texts] ^ MASK]), np.concatenate([np.arange(len(tokens)), texts])


def _without_outer_signs(tokens: Tokens) -> Tokens:
    texts = np.repeat(np.arange(len(tokens)), tokens.counts)
    words = np.flatnonzero(tokens.kinds != SIGN)
    first, last = tokens.ends.copy(), np.full(len(tokens), -1, dtype=np.int64)
    np.minimum.at(first, texts[words], words)
    np.maximum.at(last, texts[words], words)
    places = np.arange(len(tokens.hashes))
    return tokens.select((places >= first[texts]) & (places <= last[texts]))


class HeldOutTurns:
    """Collects held-out turns for a LeakIndex. Each belongs to an owner, a number that the caller chooses."""

    def __init__(self, with_templates: bool = True) -> None:
        """with_templates: whether turns are also found with other numbers and names."""
        self.with_templates = with_templates
        self.plain: list[Columns] = []
        self.masked: list[Columns] = []
        self.short: list[Columns] = []
        self.pairs: list[Columns] = []
        self.turns: list[Columns] = []

    def extend(self, turns: "HeldOutTurns") -> None:
        """Add the turns of another collection."""
        for name in ("plain", "masked", "short", "pairs", "turns"):
            getattr(self, name).extend(getattr(turns, name))

    def drop(self, is_dropped: Callable[[Columns], np.ndarray]) -> None:
        """Remove sequences of long turns. is_dropped: returns a bool per sequence."""
        for name in ("plain", "masked"):
            if parts := getattr(self, name):
                columns = {column: np.concatenate([part[column] for part in parts]) for column in _NEEDLE_TYPES}
                kept = ~is_dropped(columns)
                setattr(self, name, [{column: values[kept] for column, values in columns.items()}])

    def add(self, tokens: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add turns. owners, roles: of each turn. single: whether it is the only question of its owner; if an answer of
        the same owner follows, it is the answer to the question."""
        words = without_signs(tokens)
        sizes = sizes_of(words)
        for sequences, texts in _long_sequences(words, roles):
            self.plain.append(_make_needles(sequences, owners[texts]))
        if self.with_templates:
            self._add_masked(words, owners, roles)
        questions = np.flatnonzero((roles == QUESTION) & single)
        keys, texts = _turn_keys(tokens.take(questions), self.with_templates)
        self.turns.append({"key": keys, "owner": owners[questions][texts], "size": sizes[questions][texts]})
        has_answer = np.zeros(len(owners), dtype=bool)
        has_answer[:-1] = (owners[1:] == owners[:-1]) & (roles[1:] == ANSWER) & (words.counts[1:] > 0)
        is_short = (sizes >= MIN_TURN_WORDS) & (sizes < PART_WORDS) & (words.counts >= WINDOW)
        self._add_pairs(words, owners, questions[(is_short & has_answer)[questions]])

    def _add_masked(self, words: Tokens, owners: np.ndarray, roles: np.ndarray) -> None:
        """Add the sequences in which numbers and names are masked, if enough other words remain.

        The first word is left out: whether it is a name depends on what comes before the turn.
        """
        masked = are_numbers(words) | (words.kinds == NAME)
        kept = np.ones(len(masked), dtype=bool)
        kept[first_words(words)] = False
        for sequences, texts in _long_sequences(mask(words.select(kept), masked[kept]), roles):
            is_mask = sequences.kinds == NUMBER
            enough = np.flatnonzero(
                (sequences.per_text(is_mask) > 0) & (sizes_of(sequences, ~is_mask) >= MIN_LONG_WORDS)
            )
            if enough.size:
                self.masked.append(_make_needles(sequences.take(enough), owners[texts][enough]))

    def _add_pairs(self, words: Tokens, owners: np.ndarray, questions: np.ndarray) -> None:
        """Add short questions, each with the first words of its answer, which is the next text."""
        if not questions.size:
            return
        needles = _make_needles(words.take(questions), owners[questions])
        lengths = np.minimum(words.counts[questions + 1], PART_WORDS)
        begins = words.begins[questions + 1]
        answers = SpanHashes(words.hashes).of(begins, begins + lengths)
        self.short.append(needles)
        self.pairs.append({"question": needles["hash"], "length": lengths, "hash": answers, "owner": owners[questions]})


def _long_sequences(words: Tokens, roles: np.ndarray) -> Iterator[tuple[Tokens, np.ndarray]]:
    """Yield (sequences, the text of each): the parts of long texts, and questions that are nearly as long."""
    parts, texts = _parts_of(words)
    if len(texts):
        yield parts, texts
    sizes = sizes_of(words)
    texts = np.flatnonzero((roles == QUESTION) & (sizes >= MIN_QUESTION_WORDS) & (sizes < PART_WORDS))
    if len(texts):
        yield words.take(texts), texts


@dataclass(frozen=True)
class Found:
    """What was found in some documents."""

    documents: np.ndarray
    """int64: the document of each sequence that was found."""
    sequences: np.ndarray
    """uint64: the hash of the sequence. Common sequences (stock sentences) are no leaks: the caller decides."""
    owners: np.ndarray
    """int64: the lowest owner of the sequence."""
    sure: np.ndarray
    """bool: the whole question was found, as a turn or with its answer. It is a leak, however common."""

    @classmethod
    def join(cls, parts: "Sequence[Found]") -> "Found":
        """Return the findings of all parts."""
        names = ("documents", "sequences", "owners", "sure")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(self, turns: HeldOutTurns, common: np.ndarray | None = None) -> None:
        """common: hashes of the sequences (Found.sequences) that are not searched."""
        self._with_templates = turns.with_templates
        common = np.empty(0, np.uint64) if common is None else common
        self._plain, self._masked = _Needles(turns.plain, common), _Needles(turns.masked, common)
        self._short = _Needles(turns.short, common[:0])
        self._pairs = _gather(turns.pairs, _PAIR_TYPES, "question", "question", "length", "hash")
        self._turns = _gather(turns.turns, _TURN_TYPES, "key", "key")

    def search(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return what is found in texts.

        documents: the document (0 to count - 1) of each text. questions: bool per text, whether it is a question, which
        is also compared as a whole.
        """
        words = without_signs(tokens)
        texts, needles, _ = self._plain.find(words)
        parts = [(documents[texts], self._plain.columns["hash"][needles], self._plain.columns["owner"][needles], False)]
        if len(self._masked):
            parts.append(self._find_masked(words, documents))
        parts.append((*self._equal_turns(tokens, documents, questions, count), True))
        parts.append((*self._questions_with_answers(words, documents), True))
        documents, sequences, owners = (np.concatenate([part[column] for part in parts]) for column in range(3))
        sure = np.repeat([part[3] for part in parts], [len(part[0]) for part in parts])
        return Found(documents, sequences, owners, sure)

    def _find_masked(self, words: Tokens, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        masked = are_numbers(words) | (words.kinds == NAME)
        texts = np.flatnonzero(words.per_text(masked) > 0)
        found, needles, _ = self._masked.find(mask(words, masked).take(texts))
        columns = self._masked.columns
        return documents[texts[found]], columns["hash"][needles], columns["owner"][needles], False

    def _equal_turns(
        self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (document, key, owner) of questions that equal a held-out one. One of few words only counts if it is
        the only question of its document."""
        known = self._turns
        if not questions.any() or not len(known["key"]):
            return _NOTHING
        asking = documents[questions]
        is_only = np.bincount(asking, minlength=count)[asking] == 1
        keys, texts = _turn_keys(tokens.take(np.flatnonzero(questions)), self._with_templates)
        places = np.minimum(np.searchsorted(known["key"], keys), len(known["key"]) - 1)
        equal = (known["key"][places] == keys) & ((known["size"][places] >= MIN_TURN_WORDS) | is_only[texts])
        return asking[texts[equal]], keys[equal], known["owner"][places[equal]]

    def _questions_with_answers(
        self, words: Tokens, documents: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (document, question, owner) of short questions that their answer follows in the same text."""
        texts, needles, ends = self._short.find(words)
        questions, known = self._short.columns["hash"][needles], self._pairs
        first, last = (np.searchsorted(known["question"], questions, side=side) for side in ("left", "right"))
        numbers = np.minimum(last - first, MAX_ANSWERS)
        pairs = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
        texts, ends = np.repeat(texts, numbers), np.repeat(ends, numbers)
        spans, is_found = SpanHashes(words.hashes), np.zeros(len(pairs), dtype=bool)
        for gap in range(ANSWER_GAP + 1):
            begins = ends + gap
            answer_ends = begins + known["length"][pairs]
            fits = np.flatnonzero(answer_ends <= words.ends[texts])
            is_found[fits] |= spans.of(begins[fits], answer_ends[fits]) == known["hash"][pairs[fits]]
        return documents[texts[is_found]], known["question"][pairs[is_found]], known["owner"][pairs[is_found]]


_NOTHING = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64)


def lowest_owners(found: Found, leaks: np.ndarray, count: int) -> np.ndarray:
    """Return int64 per document: the lowest owner of what was found, -1 if nothing was. leaks: bool per finding."""
    lowest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(lowest, found.documents[leaks], found.owners[leaks])
    return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)
