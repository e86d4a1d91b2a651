"""Templates: texts that differ only in an order number have equal templates."""

import numpy as np

from ft_pipeline.tables.dedup.tokens import CHARACTER, DIGITS, NUMBER, SIGN, Tokens

MASK = np.uint64(0x6A09E667F3BCC909)
"""Stands for a number."""
MIN_WORDS = 2
"""Smallest number of words of a template beside its number."""
MIN_LONG_WORDS = 8
"""Number of other words from which several numbers are masked. In a shorter text they are its content, as in "What is
the sum of 1234 and 5678?"."""
MAX_MASKED = 0.4
"""Largest share of masks among the words of a template."""


def without_signs(tokens: Tokens) -> Tokens:
    """Return the words of the texts."""
    return tokens.select(tokens.kinds != SIGN)


def sizes_of(words: Tokens, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the number of words of each text; characters of scripts without spaces count half.

    counted: bool per word, None for all words.
    """
    is_character = words.kinds == CHARACTER
    whole = words.counts if counted is None else words.per_text(counted)
    if not is_character.any():
        return whole.astype(np.float64)
    return whole - words.per_text(is_character if counted is None else is_character & counted) / 2


def first_words(words: Tokens) -> np.ndarray:
    """Return the position of the first word of each text that has one."""
    return words.begins[words.counts > 0]


def are_numbers(words: Tokens) -> np.ndarray:
    """Return a bool per word: a number, or a word with a digit beside a number (the month of a date)."""
    has_digit = (words.kinds == DIGITS) | (words.kinds == NUMBER)
    starts = np.ones(len(has_digit), dtype=bool)
    starts[1:] = ~has_digit[:-1]
    starts[first_words(words)] = True
    runs = np.cumsum(starts) - 1
    has_number = np.bincount(runs[words.kinds == NUMBER], minlength=len(runs)) > 0
    return has_digit & has_number[runs]


def mask(words: Tokens, masked: np.ndarray) -> Tokens:
    """Return the words with one mask, of the kind NUMBER, for each run of masked ones."""
    repeats = np.zeros(len(masked), dtype=bool)
    repeats[1:] = masked[1:] & masked[:-1]
    repeats[first_words(words)] = False
    kinds = np.where(masked, np.uint8(NUMBER), words.kinds)
    return Tokens(np.where(masked, MASK, words.hashes), kinds, words.counts).select(~repeats)


def template_hashes(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 of the template of each text, bool per text: whether something is masked in it)."""
    words = without_signs(tokens)
    masked = are_numbers(words)
    is_long = sizes_of(words, ~masked) >= MIN_LONG_WORDS
    masked_words = mask(words, masked)
    masks = masked_words.counts - words.per_text(~masked)
    has_one = (masks == 1) & (sizes_of(words, ~masked) >= MIN_WORDS)
    is_template = (masks > 0) & (is_long | has_one) & (masks <= MAX_MASKED * masked_words.counts)
    return masked_words.hash_each(), is_template
