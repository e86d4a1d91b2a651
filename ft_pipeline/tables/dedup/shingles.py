"""Shingles: every 3 consecutive words of a normalized text, by which near duplicates are found.

Here a word is what white space separates, with its signs: "3 + 4" is not near "3 - 4". In scripts without spaces, each
character is a word.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from ft_pipeline.tables.dedup.hashes import PLACES, hash_pieces, mix, shingles_of
from ft_pipeline.tables.dedup.tokens import BLOCK_BYTES, UNSPACED, Texts, as_array
from ft_pipeline.tables.text_bytes import buffers, squeezed

_SPACED = bytes.maketrans(b"\x1f", b" ")
"""Turns are separated like words."""
ANSWER = np.uint64(1 << 63)
"""Marks the shingles of an answer."""

_UNSPACED = regex.compile(rf"([{UNSPACED}]\p{{M}}*)")


def shingle_words(normalized: str) -> list[str]:
    """Return the words of a normalized text, as `shingle` takes them. Turns may be separated by U+001F."""
    return _UNSPACED.sub(r" \1 ", normalized).replace("\x1f", " ").split()


def shingle(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 shingles of all texts, int64 number per text). A text of fewer than 3 words is one shingle."""
    array = _with_spaces(as_array(texts))
    # With a space after each text, every word ends at a space.
    ended = pc.binary_join_element_wise(array, pa.scalar("", array.type), pa.scalar(" ", array.type))
    offsets, data = buffers(ended)
    parts, begin = [], 0
    while begin < len(array):
        end = max(int(np.searchsorted(offsets, offsets[begin] + BLOCK_BYTES, side="right")) - 1, begin + 1)
        block = data[offsets[begin] : offsets[end]]
        spaces = np.flatnonzero(block == 0x20)
        counts = np.diff(np.searchsorted(spaces, offsets[begin : end + 1] - offsets[begin]))
        begins = np.zeros_like(spaces)
        begins[1:] = spaces[:-1] + 1
        parts.append(shingles_of(hash_pieces(block, begins, spaces - begins), counts))
        begin = end
    if not parts:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    shingles, lengths = zip(*parts, strict=True)
    return np.concatenate(shingles), np.concatenate(lengths)


def mark_answers(
    shingles: np.ndarray, lengths: np.ndarray, answers: np.ndarray, answer_lengths: np.ndarray
) -> np.ndarray:
    """Return the shingles of some rows, those of each row's answer marked by the bit ANSWER. lengths, answer_lengths:
    the number of shingles of each row, and of its answer."""
    own, of_answers = (
        part ^ np.repeat(mix(np.arange(len(counts), dtype=np.uint64) * PLACES[0]), counts)
        for part, counts in ((shingles, lengths), (answers, answer_lengths))
    )
    return np.where(np.isin(own, of_answers), shingles | ANSWER, shingles & ~ANSWER)


def _with_spaces(texts: pa.Array) -> pa.Array:
    """Return texts with single spaces between all words, and without turn separators."""
    is_unspaced = _are_unspaced(texts)
    if pc.any(is_unspaced).as_py():
        spaced = pc.replace_substring_regex(texts.filter(is_unspaced), rf"([{UNSPACED}]\p{{M}}*)", r" \1 ")
        texts = pc.replace_with_mask(texts, is_unspaced, spaced)
    elif _is_spaced(texts):
        return texts
    return pc.ascii_trim(squeezed(texts, _SPACED), " ")


def _are_unspaced(texts: pa.Array) -> pa.Array:
    """Return whether each text has a character of a script without spaces. ASCII has none."""
    others = pc.invert(pc.string_is_ascii(texts))
    return pc.replace_with_mask(others, others, pc.match_substring_regex(texts.filter(others), f"[{UNSPACED}]"))


def _is_spaced(texts: pa.Array) -> bool:
    """Return whether no text has a turn separator, or begins or ends with a space."""
    outer_spaces = pc.starts_with(texts, " ").true_count + pc.ends_with(texts, " ").true_count
    return outer_spaces == 0 and not (buffers(texts)[1] == 0x1F).any()
