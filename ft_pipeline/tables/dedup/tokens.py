"""Tokens: the words and signs of a text, for the search of leaks, of examples and of passages.

A word is a run of letters, marks and digits. In scripts without spaces between words, each character is a word. A sign
is any other visible character. Case, the NFKC form and invisible characters make no difference.

`tokens_of` is the definition. `_fast_tokens` does the same for ASCII, a block of texts at a time.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from ft_pipeline.tables.dedup.hashes import SpanHashes, hash_pieces
from ft_pipeline.tables.text_bytes import buffers
from ft_pipeline.tables.text_rules import ZERO_WIDTH

WORD, CHARACTER, DIGITS, NUMBER, SIGN = range(5)
"""Kinds of tokens. CHARACTER: a word of a script without spaces. DIGITS: a word with a digit. NUMBER: one with at least
4 digits, or with letters and at least 3: an order number, a year."""
NUMBER_DIGITS = 4
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts without spaces between words, as a part of a character class."""
BLOCK_BYTES = 1 << 17
"""Bytes of text per block: numpy's arrays for a block stay in the processor's cache (twice as fast)."""

Texts: TypeAlias = "Sequence[str] | pa.Array"
"""Python strings, or a large_string array."""
Token = tuple[str, int]
"""The text of a token, in the form that is compared, and its kind."""

_TOKEN = regex.compile(
    rf"(?P<character>[{UNSPACED}]\p{{M}}*)|(?P<word>[\p{{L}}\p{{M}}\p{{N}}--[{UNSPACED}]]+)|[^\s\p{{C}}]",
    regex.VERSION1,
)
_DIGIT = regex.compile(r"\p{N}")
_INVISIBLE = dict.fromkeys(map(ord, ZERO_WIDTH + "\ufe0e\ufe0f\u0640"))
"""Also the variants of emoji, and the line that stretches Arabic words."""
_DOT_ABOVE = "\u0307"
"""What remains of a Turkish İ that becomes a small letter."""


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a text."""
    text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    return [
        (match[0].casefold().replace(_DOT_ABOVE, ""), _kind(match[0], match.lastgroup))
        for match in _TOKEN.finditer(text)
    ]


def _kind(token: str, group: str | None) -> int:
    if group is None:
        return SIGN
    if digits := len(_DIGIT.findall(token)):
        return NUMBER if digits >= NUMBER_DIGITS - (digits < len(token)) else DIGITS
    return CHARACTER if group == "character" else WORD


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, without its signs."""
    return tuple(token for token, kind in tokens_of(text) if kind != SIGN)


@dataclass
class Tokens:
    """The tokens of a sequence of texts, text after text."""

    hashes: np.ndarray
    """uint64 of each token."""
    kinds: np.ndarray
    """uint8: the kind of each token."""
    counts: np.ndarray
    """int64: the number of tokens of each text."""

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def ends(self) -> np.ndarray:
        """int64: the position after the last token of each text."""
        return np.cumsum(self.counts)

    @property
    def begins(self) -> np.ndarray:
        """int64: the position of the first token of each text."""
        return self.ends - self.counts

    @cached_property
    def span_hashes(self) -> SpanHashes:
        """The hashes of any parts of the sequence."""
        return SpanHashes(self.hashes)

    def text_of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the text of each of these tokens, given by their positions."""
        return np.repeat(np.arange(len(self)), self.counts)[tokens]

    def spans(self, begins: np.ndarray, lengths: np.ndarray) -> "Tokens":
        """Return some parts of the texts as texts, given by the position of their first token and their length."""
        places = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return Tokens(self.hashes[places], self.kinds[places], lengths)

    def take(self, texts: np.ndarray) -> "Tokens":
        """Return some of the texts, in the order of `texts`."""
        return self.spans(self.begins[texts], self.counts[texts])

    def hash_each(self) -> np.ndarray:
        """Return the uint64 of each text."""
        return self.span_hashes.of(self.begins, self.ends)

    def select(self, kept: np.ndarray) -> "Tokens":
        """Return the same texts with some of their tokens. `kept`: a bool per token."""
        places = np.flatnonzero(kept)
        ends = np.searchsorted(places, self.ends)
        return Tokens(self.hashes[places], self.kinds[places], np.diff(ends, prepend=0))

    def per_text(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of a value per token for each text."""
        sums = np.concatenate([[0], np.cumsum(values)])
        return np.diff(sums[np.concatenate([[0], self.ends])])


def tokenize(texts: Texts) -> Tokens:
    """Return the hashed tokens of texts."""
    array = as_array(texts)
    is_ascii = pc.string_is_ascii(array).to_numpy(zero_copy_only=False)
    if is_ascii.all():
        return _join(list(_fast_tokens(array)))
    plain, others = np.flatnonzero(is_ascii), np.flatnonzero(~is_ascii)
    slow = _tokenize_slowly(array.take(pa.array(others)).to_pylist())
    return _in_order([*_fast_tokens(array.take(pa.array(plain))), slow], np.concatenate([plain, others]))


def as_array(texts: Texts) -> pa.Array:
    """Return texts as a large_string array."""
    return texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())


def _join(parts: Sequence[Tokens]) -> Tokens:
    if not parts:
        return Tokens(np.empty(0, np.uint64), np.empty(0, np.uint8), np.empty(0, np.int64))
    return Tokens(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


def _in_order(parts: Sequence[Tokens], places: np.ndarray) -> Tokens:
    """Return the texts of the parts in their order. places: the position of each text in the result."""
    hashes, kinds, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS)
    return Tokens(hashes, kinds, counts).take(np.argsort(places))


_FIELDS = ("hashes", "kinds", "counts")


def _tokenize_slowly(texts: Sequence[str]) -> Tokens:
    tokens = [tokens_of(text) for text in texts]
    pieces = [token.encode("utf-8", "surrogatepass") for text_tokens in tokens for token, _ in text_tokens]
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    data = np.frombuffer(b"".join(pieces), np.uint8)
    kinds = np.fromiter((kind for text_tokens in tokens for _, kind in text_tokens), np.uint8, len(pieces))
    counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    return Tokens(hash_pieces(data, np.cumsum(sizes) - sizes, sizes), kinds, counts)


_SPACE, _SYMBOL, _LETTER, _DIGIT_BYTE = range(4)


def _class_of(byte: int) -> int:
    char = chr(byte)
    if char.isalnum():
        return _DIGIT_BYTE if char.isdigit() else _LETTER
    return _SYMBOL if char.isprintable() and char != " " else _SPACE


_CLASSES = bytes(map(_class_of, range(128))) + bytes(128)
"""What each byte of an ASCII text is. bytes.translate reads this table three times as fast as numpy's index does."""


def _fast_tokens(texts: pa.Array) -> Iterator[Tokens]:
    """Yield the tokens of ASCII texts, in blocks of texts."""
    # With a line end after each text, no token goes on in the next text.
    ended = pc.binary_join_element_wise(texts, pa.scalar("", texts.type), pa.scalar("\n", texts.type))
    offsets, data = buffers(ended)
    begin = 0
    while begin < len(texts):
        end = max(int(np.searchsorted(offsets, offsets[begin] + BLOCK_BYTES, side="right")) - 1, begin + 1)
        block, block_offsets = data[offsets[begin] : offsets[end]], offsets[begin : end + 1] - offsets[begin]
        yield _fast_block(block, block_offsets)
        begin = end


def _fast_block(data: np.ndarray, offsets: np.ndarray) -> Tokens:
    text = data.tobytes()
    classes = np.frombuffer(text.translate(_CLASSES), np.uint8)
    is_word = classes >= _LETTER
    follows_word = np.zeros(len(data), dtype=bool)
    follows_word[1:] = is_word[:-1]
    begins = np.flatnonzero((is_word & ~follows_word) | (classes == _SYMBOL))
    is_word_token = is_word[begins]
    word_begins, word_ends = begins[is_word_token], np.flatnonzero(follows_word & ~is_word)
    sizes = np.ones(len(begins), np.int64)
    sizes[is_word_token] = word_ends - word_begins
    kinds = np.full(len(begins), SIGN, np.uint8)
    kinds[is_word_token] = _kinds_of_words(np.flatnonzero(classes == _DIGIT_BYTE), word_begins, word_ends)
    counts = np.diff(np.searchsorted(begins, offsets))
    return Tokens(hash_pieces(np.frombuffer(text.lower(), np.uint8), begins, sizes), kinds, counts)


def _kinds_of_words(digits: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the kind of each word. digits: the positions of the digits, ascending."""
    if not len(digits):
        return np.full(len(begins), WORD, np.uint8)
    counts = np.bincount(np.searchsorted(begins, digits, side="right") - 1, minlength=len(begins))
    is_number = counts >= NUMBER_DIGITS - (counts < ends - begins)
    return np.where(counts > 0, np.where(is_number, np.uint8(NUMBER), np.uint8(DIGITS)), np.uint8(WORD))
