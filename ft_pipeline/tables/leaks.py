"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn is found by half of its parts of 13 words, also with other numbers and names, and so is a whole conversation
of several exchanges. A question is found as a whole turn, or with its answer after it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, SpanHashes, mix
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
from ft_pipeline.tables.leak_findings import ALWAYS, PAIR, WHOLE, Columns, Found
from ft_pipeline.tables.leak_needles import SEQUENCE_TYPES, Needles, gather, make_needles, ranges_of

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
_PAIR_TYPES: Mapping[str, type] = {
    "question": np.uint64,
    "length": np.uint8,
    "hash": np.uint64,
    "owner": np.int32,
    "is_long": np.bool_,
}
_TURN_TYPES: Mapping[str, type] = {"hash": np.uint64, "owner": np.int32, "size": np.float32}


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
                columns = {column: np.concatenate([part[column] for part in parts]) for column in SEQUENCE_TYPES}
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
            self.plain.append(make_needles(sequences, part=numbers, **about))
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
            self.plain.append(make_needles(parts, part=numbers, **about))

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
                self.masked.append(make_needles(sequences.take(enough), part=part, **columns))

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
            self.short.append(make_needles(short, **about))
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


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(self, turns: HeldOutTurns) -> None:
        self._with_templates = turns.with_templates
        self._plain, self._masked = Needles(turns.plain), Needles(turns.masked)
        self._short = Needles(turns.short)
        self._pairs = gather(turns.pairs, _PAIR_TYPES, "question", "question", "length", "hash")
        self._turns = gather(turns.turns, _TURN_TYPES, "hash", "hash")

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
        hits, pairs = ranges_of(known["question"], questions, MAX_ANSWERS)
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
