"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn is found by half of its parts of 13 words, also with other numbers and names, and so is a whole conversation
of several exchanges. A question is found as a whole turn, or with its answer after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
"""Number of words from which a question is found as a turn of a longer conversation ("Hello" is no question)."""
MIN_PAIR_WORDS, MIN_EXCHANGE_WORDS = 5, 13
"""Number of words that a question and its answer must have together to be found after each other ("Are you sure? Yes."
shows nothing): in a row with one question, and in one with several."""
ANSWER_GAP = 16
"""Largest number of words between a question and its answer ("A:", a name, a time, the choices)."""
MAX_ANSWERS = 16
"""Number of answers of one short question that are compared."""
MAX_PARTS = np.iinfo(np.uint16).max
"""Number of parts of a turn that are told apart."""
MAX_NEEDLES = 64
"""Number of sequences with the same rarest window that are compared: a limit for hostile data."""
MAX_TURNS = 16
"""Number of turns that may have a sequence. One that more held-out turns have is a stock sentence."""
PART, WHOLE, PAIR, ALWAYS = range(4)
"""Kinds of findings: a part of a turn; a question that is a turn of a conversation with others; a question with its
answer after it; what counts however many rows have it: the only question of a document, and a long pair."""
_FILTER_BITS = range(16, 30)
"""The first test of a window is a table of so many bits of its hash that about one of 32 windows passes by chance. The
table itself has one bit per entry, so that it stays in the processor's cache."""
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each sequence by a rare one."""
_NEEDLE_TYPES: Mapping[str, type] = {"anchor": np.uint64, "offset": np.uint8, "length": np.uint8, "hash": np.uint64}
_MEMBER_TYPES: Mapping[str, type] = {
    "hash": np.uint64,
    "owner": np.int32,
    "turn": np.uint64,
    "part": np.uint16,
    "parts": np.uint16,
}
"""Small types: there are about five needles per held-out row."""
_SEQUENCE_TYPES = {**_NEEDLE_TYPES, **_MEMBER_TYPES}
_PAIR_TYPES: Mapping[str, type] = {
    "question": np.uint64,
    "length": np.uint8,
    "hash": np.uint64,
    "owner": np.int32,
    "is_long": np.bool_,
}
_TURN_TYPES: Mapping[str, type] = {"hash": np.uint64, "owner": np.int32, "size": np.float32}
Columns = dict[str, np.ndarray]
_SEQUENCE_COLUMNS = tuple(_MEMBER_TYPES)


def _gather(parts: Sequence[Columns], types: Mapping[str, type], sort_by: str, *distinct: str) -> Columns:
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


class _Needles:
    """Sequences of words to be found, each by its rarest window, and the turns that have them."""

    def __init__(self, parts: Sequence[Columns]) -> None:
        members = [
            {name: part["hash"] if name == "hash" else part.pop(name) for name in _MEMBER_TYPES} for part in parts
        ]
        self.columns = _gather(parts, _NEEDLE_TYPES, "anchor", "anchor", "hash", "length")
        self.members = _without_stock(_gather(members, _MEMBER_TYPES, "hash", "hash", "turn", "part"))
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
        hits, rows = _ranges(self.members["hash"], self.columns["hash"][needles], MAX_TURNS)
        return Found.of(documents[hits], self.members, rows, PART)


def _ranges(ordered: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
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
        **{name: column.astype(_MEMBER_TYPES[name]) for name, column in columns.items()},
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
                columns = {column: np.concatenate([part[column] for part in parts]) for column in _SEQUENCE_TYPES}
                kept = ~is_dropped(columns)
                setattr(self, name, [{column: values[kept] for column, values in columns.items()}])

    def add(self, tokens: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add turns. owners, roles: of each turn. single: whether it is the only question of its owner; if an answer of
        the same owner follows, it is the answer to the question."""
        words = without_signs(tokens)
        self._add_long(words, owners, roles)
        self._add_conversations(words, owners, roles)
        questions = np.flatnonzero((roles == QUESTION) & single)
        keys, texts = _turn_keys(tokens.take(questions), self.with_templates)
        owner, size = owners[questions][texts], sizes_of(words)[questions][texts]
        self.turns.append({"hash": keys, "owner": owner.astype(np.int32), "size": size.astype(np.float32)})
        self._add_pairs(words, owners, roles, single)

    def _add_long(self, words: Tokens, owners: np.ndarray, roles: np.ndarray) -> None:
        """Add the parts of long turns, and questions that are nearly as long."""
        turns, parts = words.hash_each(), np.ones(len(words), np.int64)
        for sequences, texts, numbers in _long_sequences(words, roles):
            numbers = np.minimum(numbers, MAX_PARTS - 1)
            np.maximum.at(parts, texts, numbers + 1)
            about = {"owner": owners[texts], "turn": turns[texts], "parts": parts[texts]}
            self.plain.append(_make_needles(sequences, part=numbers, **about))
        if self.with_templates:
            self._add_masked(words, roles, {"owner": owners, "turn": turns, "parts": parts})

    def _add_conversations(self, words: Tokens, owners: np.ndarray, roles: np.ndarray) -> None:
        """Add the turns of each owner with several questions as one long turn: each of them may be too short."""
        starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        questions = np.add.reduceat((roles == QUESTION).astype(np.int64), starts) if len(owners) else starts[:0]
        several = np.flatnonzero(questions > 1)
        if several.size:
            whole = Tokens(words.hashes, words.kinds, np.add.reduceat(words.counts, starts)).take(several)
            parts, texts, numbers = _parts_of(whole)
            if not len(texts):
                return
            numbers = np.minimum(numbers, MAX_PARTS - 1)
            about = {"owner": owners[starts[several]][texts], "turn": whole.hash_each()[texts]}
            about["parts"] = np.bincount(texts, minlength=len(whole))[texts]
            self.plain.append(_make_needles(parts, part=numbers, **about))

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

    def _add_pairs(self, words: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add questions, each with the first words of its answer, which is the next turn of the same owner.

        A question that is found by its own words is known by them, a long one by those of its last part.
        """
        sizes, answered = sizes_of(words), np.zeros(len(owners), dtype=bool)
        answered[:-1] = (owners[1:] == owners[:-1]) & (roles[1:] == ANSWER) & (words.counts[1:] > 0)
        together = sizes + np.append(sizes[1:], 0)
        is_question = (roles == QUESTION) & answered & (words.counts >= WINDOW) & (sizes >= MIN_TURN_WORDS)
        questions = np.flatnonzero(is_question & (together >= np.where(single, MIN_PAIR_WORDS, MIN_EXCHANGE_WORDS)))
        if not questions.size:
            return
        counts, size = words.counts[questions], sizes[questions]
        lengths = np.where(size < PART_WORDS, counts, np.minimum(np.ceil(PART_WORDS * counts / size), counts))
        lengths = lengths.astype(np.int64)
        ends = words.spans(words.begins[questions] + counts - lengths, lengths)
        is_short = np.flatnonzero(size < MIN_QUESTION_WORDS)
        if is_short.size:
            zeros, short = np.zeros(len(is_short), np.int64), ends.take(is_short)
            about = {"owner": owners[questions][is_short], "turn": short.hash_each(), "part": zeros, "parts": zeros + 1}
            self.short.append(_make_needles(short, **about))
        answer_lengths = np.minimum(words.counts[questions + 1], PART_WORDS)
        begins = words.begins[questions + 1]
        answers = SpanHashes(words.hashes).of(begins, begins + answer_lengths)
        columns = {"question": ends.hash_each(), "length": answer_lengths, "hash": answers, "owner": owners[questions]}
        columns["is_long"] = (size >= PART_WORDS) & (sizes[questions + 1] >= PART_WORDS)
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
        columns = ("document", *_SEQUENCE_COLUMNS, "kind")
        return cls(**{name: np.concatenate([getattr(found, name) for found in findings]) for name in columns})

    @classmethod
    def of(cls, document: np.ndarray, columns: Columns, rows: np.ndarray, kind: int | np.ndarray) -> "Found":
        """Return a finding for each document, with the columns of these rows."""
        values = {name: columns[name][rows] for name in _SEQUENCE_COLUMNS if name in columns}
        no_parts = np.zeros(len(rows), np.uint16)
        kinds = np.broadcast_to(np.asarray(kind, np.uint8), len(rows))
        return cls(document, **{"turn": values["hash"], "part": no_parts, "parts": no_parts, **values}, kind=kinds)

    def select(self, kept: np.ndarray) -> "Found":
        """Return some of the findings. kept: a bool per finding."""
        return Found(*(getattr(self, name)[kept] for name in ("document", *_SEQUENCE_COLUMNS, "kind")))

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


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(self, turns: HeldOutTurns) -> None:
        self._with_templates = turns.with_templates
        self._plain, self._masked = _Needles(turns.plain), _Needles(turns.masked)
        self._short = _Needles(turns.short)
        self._pairs = _gather(turns.pairs, _PAIR_TYPES, "question", "question", "length", "hash")
        self._turns = _gather(turns.turns, _TURN_TYPES, "hash", "hash")

    def search(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return what is found in texts.

        documents: the document (0 to count - 1) of each text, ascending. questions: bool per text, whether it is a
        question, which is also compared as a whole.
        """
        words = without_signs(tokens)
        # What is found may begin in one text of a document and end in the next: an answer follows its question.
        counts = np.bincount(documents, weights=words.counts, minlength=count).astype(np.int64)
        joined = Tokens(words.hashes, words.kinds, counts)
        found, needles, ends = self._plain.find(joined)
        findings = [self._plain.turns_of(found, needles)]
        findings.append(self._with_answers(joined, found, self._plain.columns["hash"][needles], ends))
        if len(self._short):
            found, needles, ends = self._short.find(joined)
            findings.append(self._with_answers(joined, found, self._short.columns["hash"][needles], ends))
        if len(self._masked):
            findings.append(self._find_masked(words, documents))
        if questions.any() and len(self._turns["hash"]):
            findings.append(self._equal_turns(tokens, documents, questions, count))
        return Found.join(findings)

    def _find_masked(self, words: Tokens, documents: np.ndarray) -> Found:
        masked = are_numbers(words) | (words.kinds == NAME)
        texts = np.flatnonzero(words.per_text(masked) > 0)
        found, needles, _ = self._masked.find(mask(words, masked).take(texts))
        return self._masked.turns_of(documents[texts[found]], needles)

    def _equal_turns(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return the questions that equal a held-out one. One of few words only counts if it is the only question of
        its document."""
        known, asking = self._turns, documents[questions]
        is_only = np.bincount(asking, minlength=count)[asking] == 1
        keys, texts = _turn_keys(tokens.take(np.flatnonzero(questions)), self._with_templates)
        places = np.minimum(np.searchsorted(known["hash"], keys), len(known["hash"]) - 1)
        equal = (known["hash"][places] == keys) & ((known["size"][places] >= MIN_TURN_WORDS) | is_only[texts])
        kinds = np.where(is_only[texts], ALWAYS, WHOLE)[equal]
        return Found.of(asking[texts[equal]], known, places[equal], kinds)

    def _with_answers(self, words: Tokens, texts: np.ndarray, questions: np.ndarray, ends: np.ndarray) -> Found:
        """Return the questions that their answer follows. texts, ends: where the words of a question end."""
        known = self._pairs
        hits, pairs = _ranges(known["question"], questions, MAX_ANSWERS)
        texts, ends = texts[hits], ends[hits]
        spans, is_found = SpanHashes(words.hashes), np.zeros(len(pairs), dtype=bool)
        text_ends = words.ends
        for gap in range(ANSWER_GAP + 1 if len(pairs) else 0):
            begins = ends + gap
            answer_ends = begins + known["length"][pairs].astype(np.int64)
            fits = np.flatnonzero(answer_ends <= text_ends[texts])
            is_found[fits] |= spans.of(begins[fits], answer_ends[fits]) == known["hash"][pairs[fits]]
        pairs = pairs[is_found]
        found = Found.of(texts[is_found], known, pairs, np.where(known["is_long"][pairs], ALWAYS, PAIR))
        asked = known["question"][pairs]
        return replace(found, hash=mix(found.hash ^ asked * PLACES[0]), turn=asked)
