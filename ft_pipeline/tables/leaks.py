"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn is found by half of its parts of 13 words, also with other numbers and names. A short question is found as a
whole turn, or with its answer after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, SpanHashes, mix, window_hashes
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
MAX_PARTS = np.iinfo(np.uint16).max
"""Number of parts of a turn that are told apart."""
MAX_NEEDLES = 64
"""Number of sequences with the same rarest window that are compared: a limit for hostile data."""
_FILTER_BITS = range(16, 30)
"""The first test of a window is a table of so many bits of its hash that about one of 32 windows passes by chance. The
table itself has one bit per entry, so that it stays in the processor's cache."""
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each sequence by a rare one."""
_NEEDLE_TYPES: Mapping[str, type] = {
    "anchor": np.uint64,
    "offset": np.uint8,
    "length": np.uint8,
    "hash": np.uint64,
    "owner": np.int32,
    "turn": np.uint64,
    "part": np.uint16,
    "parts": np.uint16,
}
"""Small types: there are about five needles per held-out row."""
_PAIR_TYPES: Mapping[str, type] = {"question": np.uint64, "length": np.uint8, "hash": np.uint64, "owner": np.int32}
_TURN_TYPES: Mapping[str, type] = {"hash": np.uint64, "owner": np.int32, "size": np.float32}
Columns = dict[str, np.ndarray]
_SEQUENCE_COLUMNS = ("hash", "owner", "turn", "part", "parts")


def _gather(parts: Sequence[Columns], types: Mapping[str, type], sort_by: str, *distinct: str) -> Columns:
    """Return the columns of all parts, sorted. Of rows with equal `distinct` columns, one, with the lowest owner.

    To save memory, the parts lose their columns.
    """
    columns = {
        name: np.concatenate([part.pop(name) for part in parts]) if parts else np.empty(0, dtype)
        for name, dtype in types.items()
    }
    keys = np.zeros(len(columns["owner"]), dtype=np.uint64)
    for name in distinct:
        keys = mix(keys * PLACES[0] + columns[name].astype(np.uint64))
    first = first_index(keys)
    np.minimum.at(columns["owner"], first, columns["owner"].copy())
    kept = np.flatnonzero(first == np.arange(len(keys)))
    order = kept[np.argsort(columns[sort_by][kept], kind="stable")]
    return {name: columns.pop(name)[order] for name in types}


_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)


class _Needles:
    """Sequences of words to be found, each by its rarest window."""

    def __init__(self, parts: Sequence[Columns], left_out: np.ndarray) -> None:
        columns = _gather(parts, _NEEDLE_TYPES, "anchor", "anchor", "hash", "length")
        if len(left_out):
            kept = ~np.isin(columns["hash"], left_out)
            columns = {name: column[kept] for name, column in columns.items()}
        self.columns = columns
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


def _make_needles(sequences: Tokens, **columns: np.ndarray) -> Columns:
    """Return the columns of _Needles for sequences of at least WINDOW words. columns: owner, turn, part, parts."""
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
        **{name: column.astype(_NEEDLE_TYPES[name]) for name, column in columns.items()},
    }


def _parts_of(words: Tokens) -> tuple[Tokens, np.ndarray, np.ndarray]:
    """Return (the parts of PART_WORDS words of the texts, the text of each, its number in the text).

    The parts follow each other; the last one ends with the text.
    """
    sizes = sizes_of(words)
    texts = np.flatnonzero(sizes >= PART_WORDS)
    counts = words.counts[texts]
    lengths = np.minimum(np.ceil(PART_WORDS * counts / sizes[texts]).astype(np.int64), counts)
    numbers = -(-counts // lengths)
    owners = np.repeat(np.arange(len(texts)), numbers)
    steps = np.arange(int(numbers.sum())) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    begins = np.minimum(steps * lengths[owners], (counts - lengths)[owners])
    return words.spans(words.begins[texts][owners] + begins, lengths[owners]), texts[owners], steps


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
        turns, parts = words.hash_each(), np.ones(len(words), np.int64)
        for sequences, texts, numbers in _long_sequences(words, roles):
            numbers = np.minimum(numbers, MAX_PARTS - 1)
            np.maximum.at(parts, texts, numbers + 1)
            about = {"owner": owners[texts], "turn": turns[texts], "parts": parts[texts]}
            self.plain.append(_make_needles(sequences, part=numbers, **about))
        if self.with_templates:
            self._add_masked(words, roles, {"owner": owners, "turn": turns, "parts": parts})
        questions = np.flatnonzero((roles == QUESTION) & single)
        keys, texts = _turn_keys(tokens.take(questions), self.with_templates)
        owner, size = owners[questions][texts], sizes[questions][texts]
        self.turns.append({"hash": keys, "owner": owner.astype(np.int32), "size": size.astype(np.float32)})
        has_answer = np.zeros(len(owners), dtype=bool)
        has_answer[:-1] = (owners[1:] == owners[:-1]) & (roles[1:] == ANSWER) & (words.counts[1:] > 0)
        is_short = (sizes >= MIN_TURN_WORDS) & (sizes < PART_WORDS) & (words.counts >= WINDOW)
        self._add_pairs(words, owners, questions[(is_short & has_answer)[questions]])

    def _add_masked(self, words: Tokens, roles: np.ndarray, about: Columns) -> None:
        """Add the sequences in which numbers and names are masked, if enough other words remain. about: of each text.

        The first word is left out: whether it is a name depends on what comes before the turn.
        """
        masked = are_numbers(words) | (words.kinds == NAME)
        kept = np.ones(len(masked), dtype=bool)
        kept[first_words(words)] = False
        for sequences, texts, numbers in _long_sequences(mask(words.select(kept), masked[kept]), roles):
            is_mask = sequences.kinds == NUMBER
            enough = np.flatnonzero(
                (sequences.per_text(is_mask) > 0) & (sizes_of(sequences, ~is_mask) >= MIN_LONG_WORDS)
            )
            if enough.size:
                columns = {name: column[texts[enough]] for name, column in about.items()}
                part = np.minimum(numbers[enough], columns["parts"] - 1)
                self.masked.append(_make_needles(sequences.take(enough), part=part, **columns))

    def _add_pairs(self, words: Tokens, owners: np.ndarray, questions: np.ndarray) -> None:
        """Add short questions, each with the first words of its answer, which is the next text."""
        if not questions.size:
            return
        zeros = np.zeros(len(questions), np.int64)
        turns = words.take(questions)
        about = {"owner": owners[questions], "turn": turns.hash_each(), "part": zeros, "parts": zeros + 1}
        needles = _make_needles(turns, **about)
        lengths = np.minimum(words.counts[questions + 1], PART_WORDS)
        begins = words.begins[questions + 1]
        answers = SpanHashes(words.hashes).of(begins, begins + lengths)
        self.short.append(needles)
        columns = {"question": needles["hash"].copy(), "length": lengths, "hash": answers, "owner": owners[questions]}
        self.pairs.append({name: column.astype(_PAIR_TYPES[name]) for name, column in columns.items()})


def _long_sequences(words: Tokens, roles: np.ndarray) -> Iterator[tuple[Tokens, np.ndarray, np.ndarray]]:
    """Yield (sequences, the text of each, its number in the text).

    They are the parts of long texts, and questions that are nearly as long.
    """
    parts, texts, numbers = _parts_of(words)
    if len(texts):
        yield parts, texts, numbers
    sizes = sizes_of(words)
    texts = np.flatnonzero((roles == QUESTION) & (sizes >= MIN_QUESTION_WORDS) & (sizes < PART_WORDS))
    if len(texts):
        yield words.take(texts), texts, np.zeros(len(texts), dtype=np.int64)


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
    """uint64: the turn that the sequence is a part of."""
    part: np.ndarray
    """uint16: its number in the turn."""
    parts: np.ndarray
    """uint16: the number of parts of the turn. 0: a whole question was found, as a turn or with its answer."""

    @classmethod
    def join(cls, findings: "Sequence[Found]") -> "Found":
        """Return all findings."""
        columns = ("document", *_SEQUENCE_COLUMNS)
        return cls(**{name: np.concatenate([getattr(found, name) for found in findings]) for name in columns})

    @classmethod
    def of(cls, document: np.ndarray, columns: Columns, rows: np.ndarray) -> "Found":
        """Return a finding for each document, with the columns of these rows; whole questions have no parts."""
        values = {name: columns[name][rows] for name in _SEQUENCE_COLUMNS if name in columns}
        no_parts = np.zeros(len(rows), np.uint16)
        return cls(document, **{"turn": values["hash"], "part": no_parts, "parts": no_parts, **values})

    def leaks(self, common: np.ndarray) -> np.ndarray:
        """Return a bool per finding: whether it is a leak.

        A whole question is one. Of a longer turn, half of the parts must be found in the document; common ones (the
        hashes of stock sentences) do not count.
        """
        whole = self.parts == 0
        counted = np.flatnonzero(~whole & ~np.isin(self.hash, common))
        turns = mix(self.turn[counted] ^ mix(self.document[counted].astype(np.uint64)))
        first = first_index(turns * PLACES[0] + self.part[counted].astype(np.uint64)) == np.arange(len(counted))
        _, numbers = np.unique(turns, return_inverse=True)
        found_parts = np.bincount(numbers[first], minlength=len(counted))
        leaks = whole.copy()
        leaks[counted] = 2 * found_parts[numbers] >= self.parts[counted]
        return leaks

    def lowest_owners(self, leaks: np.ndarray, count: int) -> np.ndarray:
        """Return int64 per document: the lowest owner of its leaks, -1 if it has none. leaks: bool per finding."""
        lowest = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(lowest, self.document[leaks], self.owner[leaks])
        return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(self, turns: HeldOutTurns, common: np.ndarray | None = None) -> None:
        """common: hashes of the sequences (Found.hash) that are not searched."""
        self._with_templates = turns.with_templates
        common = np.empty(0, np.uint64) if common is None else common
        self._plain, self._masked = _Needles(turns.plain, common), _Needles(turns.masked, common)
        self._short = _Needles(turns.short, common[:0])
        self._pairs = _gather(turns.pairs, _PAIR_TYPES, "question", "question", "length", "hash")
        self._turns = _gather(turns.turns, _TURN_TYPES, "hash", "hash")

    def search(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return what is found in texts.

        documents: the document (0 to count - 1) of each text. questions: bool per text, whether it is a question, which
        is also compared as a whole.
        """
        words = without_signs(tokens)
        texts, needles, _ = self._plain.find(words)
        findings = [Found.of(documents[texts], self._plain.columns, needles)]
        if len(self._masked):
            findings.append(self._find_masked(words, documents))
        if questions.any() and len(self._turns["hash"]):
            findings.append(self._equal_turns(tokens, documents, questions, count))
        if len(self._short):
            findings.append(self._questions_with_answers(words, documents))
        return Found.join(findings)

    def _find_masked(self, words: Tokens, documents: np.ndarray) -> Found:
        masked = are_numbers(words) | (words.kinds == NAME)
        texts = np.flatnonzero(words.per_text(masked) > 0)
        found, needles, _ = self._masked.find(mask(words, masked).take(texts))
        return Found.of(documents[texts[found]], self._masked.columns, needles)

    def _equal_turns(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return the questions that equal a held-out one. One of few words only counts if it is the only question of
        its document."""
        known, asking = self._turns, documents[questions]
        is_only = np.bincount(asking, minlength=count)[asking] == 1
        keys, texts = _turn_keys(tokens.take(np.flatnonzero(questions)), self._with_templates)
        places = np.minimum(np.searchsorted(known["hash"], keys), len(known["hash"]) - 1)
        equal = (known["hash"][places] == keys) & ((known["size"][places] >= MIN_TURN_WORDS) | is_only[texts])
        return Found.of(asking[texts[equal]], known, places[equal])

    def _questions_with_answers(self, words: Tokens, documents: np.ndarray) -> Found:
        """Return the short questions that their answer follows in the same text."""
        texts, needles, ends = self._short.find(words)
        questions, known = self._short.columns["hash"][needles], self._pairs
        first, last = (np.searchsorted(known["question"], questions, side=side) for side in ("left", "right"))
        numbers = np.minimum(last - first, MAX_ANSWERS)
        pairs = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
        texts, ends = np.repeat(texts, numbers), np.repeat(ends, numbers)
        spans, is_found = SpanHashes(words.hashes), np.zeros(len(pairs), dtype=bool)
        for gap in range(ANSWER_GAP + 1):
            begins = ends + gap
            answer_ends = begins + known["length"][pairs].astype(np.int64)
            fits = np.flatnonzero(answer_ends <= words.ends[texts])
            is_found[fits] |= spans.of(begins[fits], answer_ends[fits]) == known["hash"][pairs[fits]]
        return Found.of(documents[texts[is_found]], known, pairs[is_found])
