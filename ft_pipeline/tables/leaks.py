"""Finds held-out turns in whatever trains or is shown to a model: in turns of conversations, texts and passages.

A long turn is found wherever its words follow each other, with numbers and names masked, so that a template with
another order number is found too. A short question is found as a whole turn, or together with its answer.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ft_pipeline.tables.dedup.hashes import WINDOW, SpanHashes, window_hashes
from ft_pipeline.tables.dedup.templates import (
    MASK,
    Sequences,
    is_masked,
    mask,
    sizes_of,
    template_hashes,
    without_signs,
)
from ft_pipeline.tables.dedup.tokens import NAME, SIGN, Tokens, tokenize

QUESTION, ANSWER, SHORT_ANSWER = range(3)
"""Roles of held-out turns. A SHORT_ANSWER shows nothing alone: it is short, or many prompts have it."""
MIN_QUESTION_WORDS, MIN_ANSWER_WORDS = 8, 13
"""Number of words from which a turn is searched inside other texts. Characters of scripts without spaces count half."""
MIN_TURN_WORDS = 3
"""Number of words from which a turn that equals a short question is a leak. "Hello" is none."""
MIN_PART_WORDS = 3
"""Number of words from which a short question and its answer are a leak if they are in one text."""
MAX_NAMES = 1 / 8
"""Largest share of capitalized words inside sentences. Where it is larger (German, titles), they are not names."""
PHRASE_WORDS = 13
"""Number of words of a phrase. A row whose human turns have one of the evaluation suites is not trained on."""
_FILTER_BITS = 22
"""The first test of a window is a table of this many bits of its hash."""
_RARITY_BITS = 16
"""Windows are counted by this many bits of their hash, to search for each turn by a rare one."""
WHOLE, QUESTION_PART, ANSWER_PART = range(3)


def _turn_keys(tokens: Tokens, mask_names: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 keys, the text of each key): of the tokens without final signs, and of the template if there is
    one. So a word in capitals is not only compared as a name."""
    templates, is_template = template_hashes(tokens, mask_names)
    texts = np.flatnonzero(is_template)
    keys = np.concatenate([_without_final_signs(tokens).hash_each(), templates[texts] ^ MASK])
    return keys, np.concatenate([np.arange(len(tokens)), texts])


def _without_final_signs(tokens: Tokens) -> Sequences:
    ends = np.cumsum(tokens.counts)
    text_of_token = np.repeat(np.arange(len(tokens)), tokens.counts)
    last_word = np.full(len(tokens), -1, dtype=np.int64)
    is_word = tokens.kinds != SIGN
    np.maximum.at(last_word, text_of_token[is_word], np.flatnonzero(is_word))
    last_word = np.where(last_word < 0, ends - 1, last_word)  # a text of signs only keeps them
    kept = tokens.select(np.arange(len(tokens.hashes)) <= last_word[text_of_token])
    return Sequences(kept.hashes, kept.counts)


_NEEDLE_TYPES: Mapping[str, type] = {
    "anchor": np.uint64,
    "offset": np.int32,
    "length": np.int32,
    "hash": np.uint64,
    "owner": np.int64,
    "part": np.uint8,
}


class _Needles:
    """Sequences of words to be found, each by its rarest window."""

    def __init__(self, parts: Sequence[dict[str, np.ndarray]]) -> None:
        columns = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0, dtype)
            for name, dtype in _NEEDLE_TYPES.items()
        }
        order = np.lexsort((columns["owner"], columns["anchor"]))
        self.columns = {name: column[order] for name, column in columns.items()}
        self._anchors = self.columns["anchor"]
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._filter[_low_bits(self._anchors)] = True

    def __len__(self) -> int:
        return len(self._anchors)

    def find(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        """Return (text, needle) of each occurrence."""
        windows = window_hashes(sequences.hashes)
        places = np.flatnonzero(self._filter[_low_bits(windows)])
        first, last = (np.searchsorted(self._anchors, windows[places], side=side) for side in ("left", "right"))
        places, first, numbers = places[last > first], first[last > first], (last - first)[last > first]
        if not places.size:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        needles = np.repeat(first - (np.cumsum(numbers) - numbers), numbers) + np.arange(int(numbers.sum()))
        begins = np.repeat(places, numbers) - self.columns["offset"][needles]
        ends = begins + self.columns["length"][needles]
        text_ends = sequences.ends
        texts = np.searchsorted(text_ends, np.repeat(places, numbers), side="right")
        inside = (begins >= (text_ends - sequences.counts)[texts]) & (ends <= text_ends[texts])
        needles, begins, ends, texts = needles[inside], begins[inside], ends[inside], texts[inside]
        equal = SpanHashes(sequences.hashes).of(begins, ends) == self.columns["hash"][needles]
        return texts[equal], needles[equal]


def _low_bits(hashes: np.ndarray) -> np.ndarray:
    return hashes & np.uint64((1 << _FILTER_BITS) - 1)


def _make_needles(sequences: Sequences, owners: np.ndarray, part: int) -> dict[str, np.ndarray]:
    """Return the columns of _Needles for sequences of at least WINDOW words."""
    ends = sequences.ends
    begins = ends - sequences.counts
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
        "hash": SpanHashes(sequences.hashes).of(begins, ends),
        "owner": owners,
        "part": np.full(len(owners), part, np.uint8),
    }


class HeldOutTurns:
    """Collects held-out turns for a LeakIndex. Each belongs to an owner, a number that the caller chooses."""

    def __init__(self, mask_names: bool | None = None) -> None:
        """mask_names: whether capitalized words are names; None: the first turns that are added decide."""
        self.mask_names = mask_names
        self._plain: list[dict[str, np.ndarray]] = []
        self._masked: list[dict[str, np.ndarray]] = []
        self._turns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @staticmethod
    def names_are_capitalized(tokens: Tokens) -> bool:
        """Return whether capital letters inside sentences mark names in these texts, judging by their number."""
        return bool((tokens.kinds == NAME).sum() <= MAX_NAMES * max((tokens.kinds != SIGN).sum(), 1))

    def extend(self, turns: "HeldOutTurns") -> None:
        """Add the turns of another collection."""
        self.mask_names = turns.mask_names if turns.mask_names is not None else self.mask_names
        self._plain += turns._plain
        self._masked += turns._masked
        self._turns += turns._turns

    def add(self, tokens: Tokens, owners: np.ndarray, roles: np.ndarray, single: np.ndarray) -> None:
        """Add turns. owners, roles: of each turn. single: whether it is the only question of its owner."""
        words = without_signs(tokens)
        if self.mask_names is None:
            self.mask_names = self.names_are_capitalized(tokens)
        sizes = sizes_of(words)
        minimum = np.where(roles == QUESTION, MIN_QUESTION_WORDS, MIN_ANSWER_WORDS)
        is_long = (sizes >= minimum) & (roles != SHORT_ANSWER) & (words.counts > WINDOW)
        self._add_long(words, owners, is_long, minimum)
        is_part = ~is_long & (sizes >= MIN_PART_WORDS) & (words.counts >= WINDOW)
        for part, selected in ((QUESTION_PART, roles == QUESTION), (ANSWER_PART, roles != QUESTION)):
            texts = np.flatnonzero(is_part & selected)
            if texts.size:
                self._plain.append(_make_needles(_sequences(words).take(texts), owners[texts], part))
        keys, texts = _turn_keys(tokens, self.mask_names)
        kept = ((roles == QUESTION) & single)[texts]
        self._turns.append((keys[kept], owners[texts[kept]], sizes[texts[kept]]))

    def _add_long(self, words: Tokens, owners: np.ndarray, is_long: np.ndarray, minimum: np.ndarray) -> None:
        """Add turns that are searched inside other texts, by their template if enough of their words remain in it."""
        assert self.mask_names is not None
        masked = is_masked(words, self.mask_names)
        is_template = is_long & (sizes_of(words, ~masked) >= minimum) & (words.per_text(masked) > 0)
        plain, templates = np.flatnonzero(is_long & ~is_template), np.flatnonzero(is_template)
        if plain.size:
            self._plain.append(_make_needles(_sequences(words).take(plain), owners[plain], WHOLE))
        if templates.size:
            # The first word is left out: whether it is a name depends on what comes before the turn.
            kept = np.ones(len(words.hashes), dtype=bool)
            kept[(np.cumsum(words.counts) - words.counts)[words.counts > 0]] = False
            sequences = mask(words.select(kept), masked[kept])
            self._masked.append(_make_needles(sequences.take(templates), owners[templates], WHOLE))

    def index(self) -> "LeakIndex":
        """Return the index of all turns."""
        return LeakIndex(_Needles(self._plain), _Needles(self._masked), self._turns, bool(self.mask_names))


class LeakIndex:
    """Held-out turns, to be found in other texts."""

    def __init__(
        self,
        plain: _Needles,
        masked: _Needles,
        turns: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
        mask_names: bool,
    ) -> None:
        self._plain, self._masked, self._mask_names = plain, masked, mask_names
        keys, owners, sizes = (
            (np.concatenate(column) for column in zip(*turns, strict=True)) if turns else [np.empty(0)] * 3
        )
        order = np.lexsort((owners, keys))
        self._keys, self._owners, self._sizes = keys[order].astype(np.uint64), owners[order], sizes[order]

    def search(
        self, tokens: Tokens, words: Tokens, documents: np.ndarray, questions: np.ndarray, count: int
    ) -> np.ndarray:
        """Return int64 per document: the lowest owner of a turn that it contains, -1 if there is none.

        tokens, words: of texts, with and without signs. documents: the document (0 to count - 1) of each text.
        questions: bool per text, whether it is a question, which is also compared as a whole.
        """
        found = [self._equal_turns(tokens, documents, questions, count)]
        texts, needles = self._plain.find(_sequences(words))
        owners, parts = self._plain.columns["owner"][needles], self._plain.columns["part"][needles]
        whole = parts == WHOLE
        found.append((documents[texts[whole]], owners[whole]))
        found.append(_with_both_parts(documents[texts[~whole]], owners[~whole], parts[~whole]))
        if len(self._masked):
            found.append(self._find_templates(words, documents))
        lowest = np.full(count, np.iinfo(np.int64).max)
        for leaking, leaked in found:
            np.minimum.at(lowest, leaking, leaked)
        return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)

    def _find_templates(self, words: Tokens, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masked = is_masked(words, self._mask_names)
        texts = np.flatnonzero(words.per_text(masked) > 0)
        found, needles = self._masked.find(mask(words, masked).take(texts))
        return documents[texts[found]], self._masked.columns["owner"][needles]

    def _equal_turns(
        self, tokens: Tokens, documents: np.ndarray, questions: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (document, owner) of questions that equal a held-out one. A short one only counts if it is the only
        question of its document."""
        if not questions.any() or not len(self._keys):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        asking = documents[questions]
        is_only = np.bincount(asking, minlength=count)[asking] == 1
        keys, texts = _turn_keys(tokens.take(np.flatnonzero(questions)), self._mask_names)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        equal = (self._keys[places] == keys) & ((self._sizes[places] >= MIN_TURN_WORDS) | is_only[texts])
        return asking[texts[equal]], self._owners[places[equal]]


def _with_both_parts(documents: np.ndarray, owners: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (document, owner) where the document has both parts of the owner's row."""
    if not len(documents):
        return documents, owners
    pairs = np.unique(np.stack([documents, owners, parts], axis=1), axis=0)
    both = (pairs[1:, :2] == pairs[:-1, :2]).all(axis=1)
    return pairs[1:][both, 0], pairs[1:][both, 1]


class Phrases:
    """The phrases of 13 words of some texts. Signs and case are ignored."""

    def __init__(self, texts: Sequence[str]) -> None:
        phrases = _phrases(_sequences(without_signs(tokenize(list(texts)))))
        found = [_make_needles(phrases, np.arange(len(phrases.counts)), WHOLE)] if len(phrases.counts) else []
        self._needles = _Needles(found)

    def shared_by(self, words: Tokens) -> np.ndarray:
        """Return a bool per text: whether it has one of the phrases."""
        shared = np.zeros(len(words), dtype=bool)
        shared[self._needles.find(_sequences(words))[0]] = True
        return shared


def _sequences(words: Tokens) -> Sequences:
    return Sequences(words.hashes, words.counts)


def _phrases(words: Sequences) -> Sequences:
    """Return every PHRASE_WORDS consecutive words of each text."""
    ends = words.ends
    begins = np.arange(max(len(words.hashes) - PHRASE_WORDS + 1, 0))
    begins = begins[begins + PHRASE_WORDS <= ends[np.searchsorted(ends, begins, side="right")]]
    hashes = words.hashes[begins[:, np.newaxis] + np.arange(PHRASE_WORDS)].ravel()
    return Sequences(hashes, np.full(len(begins), PHRASE_WORDS))
