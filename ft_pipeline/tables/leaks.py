"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn, and a whole conversation of several exchanges, is found by half of its words, in windows of words in a row
(dedup/windows.py). A question is also found as a whole turn, at the end of one, or with its answer after it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, WINDOW, mix, run_starts
from ft_pipeline.tables.dedup.in_threads import in_threads
from ft_pipeline.tables.dedup.templates import MASK, sizes_of, template_hashes, without_signs
from ft_pipeline.tables.dedup.tokens import DIGITS, NUMBER, SIGN, Tokens
from ft_pipeline.tables.dedup.windows import WORDS, Postings, WindowIndex, cover, windows_of
from ft_pipeline.tables.leak_copies import ANSWERED, ASKED, OTHER, WHOLE_CONVERSATION, SearchedTurns, near_copies
from ft_pipeline.tables.leak_findings import ALWAYS, PAIR, WHOLE, Columns, Found
from ft_pipeline.tables.leak_needles import Needles, gather, make_needles, ranges_of

QUESTION, ANSWER = range(2)
"""Roles of held-out turns."""
LEAST_WORDS = 8
"""Number of words of a turn that must be found, and half of its words. Characters of scripts without spaces count half.
It is also the number from which a question is searched by its windows."""
MIN_ANSWER_WORDS = 13
"""The same for an answer, and for a conversation: shorter ones alone show nothing."""
END_WORDS = 13
"""Number of words at the end of a question, and of the first ones of its answer, by which both are found together."""
MIN_TURN_WORDS = 3
"""Number of words from which a question is found as a turn of a longer conversation ("Hello" is no question)."""
MIN_END_WORDS = 4
"""Number of words from which a short question is found at the end of a turn of at most twice as many words."""
MIN_PAIR_WORDS, MIN_EXCHANGE_WORDS = 5, 13
"""Number of words that a question and its answer must have together to be found after each other ("Are you sure? Yes."
shows nothing): in a row with one question, and in one with several."""
ANSWER_GAP = 16
"""Largest number of words between a question and its answer ("A:", a name, a time, the choices)."""
MAX_ANSWERS = 16
"""Number of answers of one short question that are compared."""
MAX_PLACES = np.iinfo(np.uint16).max
"""Number of words of a turn that are searched."""
BLOCK_WINDOWS = 1_000_000
"""Number of windows that were found and are compared at a time, by each thread."""
_PAIR_TYPES: Mapping[str, type] = {
    "question": np.uint64,
    "length": np.uint8,
    "hash": np.uint64,
    "owner": np.int32,
    "is_long": np.bool_,
}
_TURN_TYPES: Mapping[str, type] = {"hash": np.uint64, "owner": np.int32, "size": np.float32}
_SHORT_TYPES: Mapping[str, type] = {"hash": np.uint64, "owner": np.int32}


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

    def __init__(self, with_templates: bool = True, step: int = 1) -> None:
        """with_templates: whether turns are also found with other numbers. step: only every so many windows of a turn
        are in the index, to save memory."""
        self.with_templates, self.step = with_templates, step
        self.windows: list[Postings] = []
        self.searched: list[SearchedTurns] = []
        self.words_per_unit: list[np.ndarray] = []
        """float32: the number of words of each of these turns that count as one; 2 in scripts without spaces."""
        self.needles: list[Columns] = []
        self.short: list[Columns] = []
        self.pairs: list[Columns] = []
        self.turns: list[Columns] = []

    @property
    def count(self) -> int:
        """The number of turns that are searched by windows."""
        return sum(len(part.owner) for part in self.searched)

    def extend(self, turns: "HeldOutTurns") -> None:
        """Add the turns of another collection."""
        self.windows += [replace(part, turn=part.turn + np.int32(self.count)) for part in turns.windows]
        for name in ("searched", "words_per_unit", "needles", "short", "pairs", "turns"):
            getattr(self, name).extend(getattr(turns, name))

    def drop_windows(self, common: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        """Remove windows. common: returns those to remove, from the windows and the owner of each."""
        if self.windows:
            windows = Postings.join(self.windows)
            owners = np.concatenate([part.owner for part in self.searched])
            dropped = common(windows.hashes, owners[windows.turn])
            self.windows = [windows.select(~np.isin(windows.hashes, dropped))]

    def add(self, tokens: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add turns. owners, roles: of each turn. single: whether it is the only question of its owner; if an answer of
        the same owner follows, it is the answer to the question."""
        words = without_signs(tokens)
        sizes = sizes_of(words)
        searched_as = np.where(roles == ANSWER, ANSWERED, np.where(single, ASKED, OTHER))
        self._add_windows(words, np.where(roles == QUESTION, LEAST_WORDS, MIN_ANSWER_WORDS), owners, searched_as)
        self._add_conversations(words, owners, roles)
        questions = np.flatnonzero((roles == QUESTION) & single)
        keys, texts = _turn_keys(tokens.take(questions), self.with_templates)
        owner, size = owners[questions][texts], sizes[questions][texts]
        self.turns.append({"hash": keys, "owner": owner.astype(np.int32), "size": size.astype(np.float32)})
        is_short = (roles == QUESTION) & single & (sizes >= MIN_END_WORDS) & (sizes < LEAST_WORDS)
        if (short := np.flatnonzero(is_short & (words.counts >= WINDOW))).size:
            whole = words.take(short)
            self.short.append({"hash": whole.hash_each(), "owner": owners[short].astype(np.int32)})
            self.needles.append(make_needles(whole))
        self._add_pairs(words, owners, roles, single)

    def _add_windows(self, words: Tokens, least: np.ndarray, owners: np.ndarray, roles: np.ndarray) -> None:
        """Add the windows of the texts that have at least so many words. roles: of SearchedTurns."""
        sizes = sizes_of(words)
        texts = np.flatnonzero(sizes >= least)
        if not texts.size:
            return
        words, sizes = words.take(texts), sizes[texts]
        hashes, begins = windows_of(words, self.with_templates)
        turns = words.text_of(begins)
        places = begins - words.begins[turns]
        kept = (places <= MAX_PLACES) & (places % self.step == 0)
        places, turns = places[kept].astype(np.uint16), (turns[kept] + self.count).astype(np.int32)
        self.windows.append(Postings(hashes[kept], turns, places))
        lengths = np.minimum(words.counts, MAX_PLACES).astype(np.int32)
        self.searched.append(SearchedTurns(owners[texts].astype(np.int32), roles[texts].astype(np.uint8), lengths))
        self.words_per_unit.append((words.counts / sizes).astype(np.float32))

    def _add_conversations(self, words: Tokens, owners: np.ndarray, roles: np.ndarray) -> None:
        """Add the turns of each owner with several questions as one long turn: each of them may be too short."""
        starts = run_starts(owners)
        questions = np.add.reduceat((roles == QUESTION).astype(np.int64), starts) if len(owners) else starts
        several = np.flatnonzero(questions > 1)
        if several.size:
            whole = Tokens(words.hashes, words.kinds, np.add.reduceat(words.counts, starts)).take(several)
            least, roles = (np.full(len(several), value) for value in (MIN_ANSWER_WORDS, WHOLE_CONVERSATION))
            self._add_windows(whole, least, owners[starts[several]], roles)

    def _add_pairs(self, words: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add questions, each with the first words of its answer, which is the next turn of the same owner.

        A long question is known by its last words.
        """
        sizes, answered = sizes_of(words), np.zeros(len(owners), dtype=bool)
        answered[:-1] = (owners[1:] == owners[:-1]) & (roles[1:] == ANSWER) & (words.counts[1:] > 0)
        together = sizes + np.append(sizes[1:], 0)
        is_question = (roles == QUESTION) & answered & (words.counts >= WINDOW) & (sizes >= MIN_TURN_WORDS)
        questions = np.flatnonzero(is_question & (together >= np.where(single, MIN_PAIR_WORDS, MIN_EXCHANGE_WORDS)))
        if not questions.size:
            return
        counts, size = words.counts[questions], sizes[questions]
        lengths = np.where(size < END_WORDS, counts, np.minimum(np.ceil(END_WORDS * counts / size), counts))
        lengths = lengths.astype(np.int64)
        ends = words.spans(words.begins[questions] + counts - lengths, lengths)
        self.needles.append(make_needles(ends))
        answer_lengths = np.minimum(words.counts[questions + 1], END_WORDS)
        begins = words.begins[questions + 1]
        answers = words.span_hashes.of(begins, begins + answer_lengths)
        columns = {"question": ends.hash_each(), "length": answer_lengths, "hash": answers, "owner": owners[questions]}
        columns["is_long"] = (size >= END_WORDS) & (sizes[questions + 1] >= END_WORDS)
        self.pairs.append({name: column.astype(_PAIR_TYPES[name]) for name, column in columns.items()})


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(self, turns: HeldOutTurns) -> None:
        self._with_templates = turns.with_templates
        self._turns_searched = SearchedTurns.join(turns.searched)
        self._words_per_unit = np.concatenate([np.empty(0, np.float32), *turns.words_per_unit])
        self.windows = WindowIndex(turns.windows)
        self._needles = Needles(turns.needles)
        self._short = gather(turns.short, _SHORT_TYPES, "hash", "hash")
        self._pairs = gather(turns.pairs, _PAIR_TYPES, "question", "question", "length", "hash")
        self._turns = gather(turns.turns, _TURN_TYPES, "hash", "hash")
        self.mark_common(np.empty(0, np.uint64))

    def mark_common(self, hashes: np.ndarray) -> None:
        """Set what many training rows have: windows and questions. It shows nothing of a turn that has it."""
        self._common = hashes
        self._common_windows = np.zeros(len(self.windows), dtype=bool)
        self._common_windows[self.windows.find(hashes)[1]] = True

    def search(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return what is found in texts.

        documents: the document (0 to count - 1) of each text, ascending. questions: bool per text, whether it is a
        question, which is also compared as a whole.
        """
        words = without_signs(tokens)
        # What is found may begin in one text of a document and end in the next: an answer follows its question.
        counts = np.bincount(documents, weights=words.counts, minlength=count).astype(np.int64)
        joined = Tokens(words.hashes, words.kinds, counts)
        findings = [self._find_windows(joined)]
        found, hashes, begins, ends = self._needles.find(joined)
        findings.append(self._with_answers(joined, found, hashes, ends))
        if questions.any():
            findings.append(self._at_ends(words, documents, questions, hashes, begins, ends))
            if len(self._turns["hash"]):
                findings.append(self._equal_turns(tokens, documents, questions, count))
        return Found.join(findings)

    def _find_windows(self, words: Tokens) -> Found:
        hashes, begins = windows_of(words, self._with_templates)
        positions, windows = self.windows.find(hashes)
        in_order = np.argsort(positions)
        begins, windows = begins[positions[in_order]], windows[in_order]
        documents = words.text_of(begins)
        return Found.windows(documents, windows, begins - words.begins[documents])

    def _at_ends(
        self,
        words: Tokens,
        documents: np.ndarray,
        questions: np.ndarray,
        hashes: np.ndarray,
        begins: np.ndarray,
        ends: np.ndarray,
    ) -> Found:
        """Return the short questions at the end of a question that has at most twice as many words."""
        known = self._short
        texts = words.text_of(begins)
        at_end = questions[texts] & (ends == words.ends[texts]) & (2 * (ends - begins) >= words.counts[texts])
        hits, rows = ranges_of(known["hash"], hashes[at_end], 1)
        found = known["hash"][rows]
        return Found.questions(documents[texts[at_end][hits]], found, known["owner"][rows], found, WHOLE)

    def _equal_turns(self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int) -> Found:
        """Return the questions that equal a held-out one. One of few words only counts if it is the only question of
        its document."""
        known, asking = self._turns, documents[questions]
        is_only = np.bincount(asking, minlength=count)[asking] == 1
        keys, texts = _turn_keys(tokens.take(np.flatnonzero(questions)), self._with_templates)
        places = np.minimum(np.searchsorted(known["hash"], keys), len(known["hash"]) - 1)
        equal = (known["hash"][places] == keys) & ((known["size"][places] >= MIN_TURN_WORDS) | is_only[texts])
        kinds, places = np.where(is_only[texts], ALWAYS, WHOLE)[equal], places[equal]
        found = known["hash"][places]
        return Found.questions(asking[texts[equal]], found, known["owner"][places], found, kinds)

    def _with_answers(self, words: Tokens, texts: np.ndarray, questions: np.ndarray, ends: np.ndarray) -> Found:
        """Return the questions that their answer follows. texts, ends: where the words of a question end."""
        known = self._pairs
        hits, pairs = ranges_of(known["question"], questions, MAX_ANSWERS)
        texts, ends = texts[hits], ends[hits]
        spans, is_found = words.span_hashes, np.zeros(len(pairs), dtype=bool)
        text_ends = words.ends
        for gap in range(ANSWER_GAP + 1 if len(pairs) else 0):
            begins = ends + gap
            answer_ends = begins + known["length"][pairs].astype(np.int64)
            fits = np.flatnonzero(answer_ends <= text_ends[texts])
            is_found[fits] |= spans.of(begins[fits], answer_ends[fits]) == known["hash"][pairs[fits]]
        pairs = pairs[is_found]
        asked = known["question"][pairs]
        hashes = mix(known["hash"][pairs] ^ asked * PLACES[0])
        kinds = np.where(known["is_long"][pairs], ALWAYS, PAIR)
        return Found.questions(texts[is_found], hashes, known["owner"][pairs], asked, kinds)

    def lowest_owners(self, found: Found, count: int, *, with_copies: bool = False) -> np.ndarray:
        """Return int64 per document: the lowest owner of what it shows, -1 if it shows nothing.

        with_copies: also of near copies, if `found` has the windows that up to MAX_COPIES training rows have.
        """
        lowest = np.full(count, np.iinfo(np.int64).max)
        leaks = (found.kind == ALWAYS) | ~np.isin(found.hash, self._common)
        np.minimum.at(lowest, found.document[leaks], found.owner[leaks])
        for documents, turns in self._covered_turns(found):
            np.minimum.at(lowest, documents, self._turns_searched.owner[turns])
        if with_copies and self._common_windows.any():
            documents = found.window_document.astype(np.int64)
            copies = near_copies(self.windows, self._turns_searched, self._common_windows, documents, found.window)
            np.minimum.at(lowest, *copies)
        return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)

    def _covered_turns(self, found: Found) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (documents, turns): the turns of which a document has enough, within one place. They are searched
        without what is common."""
        is_searched = np.zeros(len(self.windows), dtype=bool)
        is_searched[found.window] = True
        is_searched &= ~self._common_windows
        own = self.windows.own_words(is_searched, self._common_windows, self._turns_searched.length)
        least = np.ceil(LEAST_WORDS * self._words_per_unit).astype(np.int64)
        least = np.maximum(least, -(-own // 2))

        def covered_in(part: slice) -> tuple[np.ndarray, np.ndarray]:
            searched = is_searched[found.window[part]]
            columns = (found.window_document[part], found.window[part], found.place[part])
            documents, windows, places = (column[searched].astype(np.int64) for column in columns)
            return self._covered_in(documents, windows, places, own, least)

        return in_threads(covered_in, _blocks(found.window_document))

    def _covered_in(
        self, documents: np.ndarray, windows: np.ndarray, places: np.ndarray, own: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (documents, turns) as _covered_turns does. own, least: of each turn, the number of words that count,
        and how many of them must be found."""
        hits, postings = self.windows.turns_of(windows)
        may_be_covered = _have_enough(documents[hits], self.windows.turn[postings], least)
        hits, postings = hits[may_be_covered], postings[may_be_covered]
        turns = self.windows.turn[postings]
        # A turn is found within a part of a document that has at most twice its words: two ways to divide the document
        # into parts of four times as many words miss none.
        span = 2 * own[turns] + 2 * LEAST_WORDS
        found_documents, found_turns = [], []
        for shift in (0, 1):
            keys = documents[hits] << 32 | (places[hits] + shift * span) // (2 * span)
            covered = cover(keys, turns, self.windows.place[postings])
            enough = covered.words >= least[covered.turn]
            found_documents.append(covered.key[enough] >> 32)
            found_turns.append(covered.turn[enough])
        return np.concatenate(found_documents), np.concatenate(found_turns)


def _blocks(documents: np.ndarray) -> Iterator[slice]:
    """Yield parts of about BLOCK_WINDOWS entries. A document is never divided. documents: of each entry, ascending."""
    begin = 0
    while begin < len(documents):
        last = documents[min(begin + BLOCK_WINDOWS, len(documents)) - 1]
        end = int(np.searchsorted(documents, last, side="right"))
        yield slice(begin, end)
        begin = end


def _have_enough(documents: np.ndarray, turns: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the positions of windows of those pairs of a document and a turn that may have enough words together: most
    pairs have one window in common, and need no closer look. least: of each turn."""
    pairs = documents << 32 | turns
    order = np.argsort(pairs)
    starts = run_starts(pairs[order])
    counts = np.diff(np.append(starts, len(pairs)))
    return order[np.repeat(WORDS * counts >= least[turns[order[starts]]], counts)]
