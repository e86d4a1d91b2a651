"""Templates: texts that differ only in an order number, or in a name, have equal templates."""

from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import SpanHashes
from ft_pipeline.tables.dedup.tokens import CHARACTER, DIGITS, NAME, NUMBER, SIGN, Tokens

MASK = np.uint64(0x6A09E667F3BCC909)
"""Stands for a number or a name."""
MIN_WORDS = 2
"""Smallest number of words of a template that are not masked."""
MAX_MASKED = 0.4
"""Largest share of masks among the words of a template. Numbers are the content of a text with more of them."""


@dataclass(frozen=True)
class Sequences:
    """The words of texts, text after text."""

    hashes: np.ndarray
    counts: np.ndarray
    """int64: words per text."""

    @property
    def ends(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def take(self, texts: np.ndarray) -> "Sequences":
        """Return some of the texts, in the order of `texts`."""
        counts = self.counts[texts]
        starts = (self.ends - self.counts)[texts]
        places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        return Sequences(self.hashes[places], counts)

    def hash_each(self) -> np.ndarray:
        """Return the uint64 of each text."""
        return SpanHashes(self.hashes).of(self.ends - self.counts, self.ends)


def without_signs(tokens: Tokens) -> Tokens:
    """Return the words of the texts."""
    return tokens.select(tokens.kinds != SIGN)


def sizes_of(words: Tokens, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the number of words of each text; characters of scripts without spaces count half.

    counted: bool per word, None for all words.
    """
    sizes = np.where(words.kinds == CHARACTER, 0.5, 1.0)
    return words.per_text(sizes if counted is None else sizes * counted)


def is_masked(words: Tokens, mask_names: bool) -> np.ndarray:
    """Return a bool per word: a number, a word with a digit beside a number (the month of a date), or a name."""
    has_digit = (words.kinds == DIGITS) | (words.kinds == NUMBER)
    starts = np.ones(len(has_digit), dtype=bool)
    starts[1:] = ~has_digit[:-1]
    starts[(np.cumsum(words.counts) - words.counts)[words.counts > 0]] = True
    runs = np.cumsum(starts) - 1
    has_number = np.bincount(runs[words.kinds == NUMBER], minlength=len(runs)) > 0
    masked = has_digit & has_number[runs]
    return masked | (words.kinds == NAME) if mask_names else masked


def mask(words: Tokens, masked: np.ndarray) -> Sequences:
    """Return the words with one mask for each run of masked ones."""
    repeats = np.zeros(len(masked), dtype=bool)
    repeats[1:] = masked[1:] & masked[:-1]
    repeats[(np.cumsum(words.counts) - words.counts)[words.counts > 0]] = False
    kept = Tokens(np.where(masked, MASK, words.hashes), words.kinds, words.counts).select(~repeats)
    return Sequences(kept.hashes, kept.counts)


def template_hashes(tokens: Tokens, mask_names: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 of the template of each text, bool per text: whether something is masked in it)."""
    words = without_signs(tokens)
    masked = is_masked(words, mask_names)
    sequences = mask(words, masked)
    plain = words.per_text(~masked)
    masks = sequences.counts - plain
    is_template = (masks > 0) & (sizes_of(words, ~masked) >= MIN_WORDS) & (masks <= MAX_MASKED * sequences.counts)
    return sequences.hash_each(), is_template
