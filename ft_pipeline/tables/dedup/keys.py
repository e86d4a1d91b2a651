"""What rows are compared by: 64-bit keys of their exact and normalised texts, and their 3-word shingles.

All of it is made a batch at a time with Arrow and numpy, and is the same on every machine and in every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.dedup.normalized import TURN, ComparisonTexts, comparison_texts, views_of_messages
from ft_pipeline.tables.dedup.shingles import PLACES, Texts, buffers, mix, shingle
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, columns_of
from ft_pipeline.tables.formats.base import Record
from ft_pipeline.tables.formats.row_ids import sha256_of_each
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.text_rules import normalise


@dataclass
class Keys:
    """One entry per row."""

    exact: np.ndarray
    """uint64 of all strings of the row as they are."""
    normal: np.ndarray
    """uint64 of the normalised row."""
    prompt: np.ndarray
    """uint64 of the normalised human turns: the third quarter of their sha256."""
    answer: np.ndarray
    """uint64 of the rest, normalised."""
    group: np.ndarray
    """uint64, shape (rows, 2): the first half of sha256 of the normalised human turns, the same for ever."""
    shingles: np.ndarray
    """uint64 of the 3-word shingles of prompt + answer, row after row; perhaps mapped from a file."""
    lengths: np.ndarray
    """int64: how many shingles each row has."""

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, rows: np.ndarray) -> "Keys":
        """The keys of some rows, in their order."""
        lengths = self.lengths[rows]
        starts = np.cumsum(self.lengths) - self.lengths
        places = np.repeat(starts[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return Keys(
            self.exact[rows],
            self.normal[rows],
            self.prompt[rows],
            self.answer[rows],
            self.group[rows],
            self.shingles[places],
            lengths,
        )


def merge(parts: Sequence[Keys], shingles: np.ndarray | None = None) -> Keys:
    """The keys of several batches, one after the other. `shingles`: all of theirs, where they lie together already."""
    if not parts:
        return keys_of("text", [])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_ROW}
    if shingles is None:
        shingles = parts[0].shingles if len(parts) == 1 else np.concatenate([part.shingles for part in parts])
    return Keys(shingles=shingles, **columns)


_PER_ROW = ("exact", "normal", "prompt", "answer", "group", "lengths")


class ShingleFile:
    """The shingles of all rows, appended to a file and mapped back, so that they do not fill the memory."""

    def __init__(self, path: Path):
        self._path = path
        self._path.touch()

    def append(self, shingles: np.ndarray) -> None:
        """Write shingles behind the last ones."""
        with self._path.open("ab") as file:
            shingles.tofile(file)

    def read(self) -> np.ndarray:
        """All of them, mapped."""
        if not self._path.stat().st_size:
            return np.empty(0, dtype=np.uint64)
        return np.memmap(self._path, dtype=np.uint64, mode="r")


def keys_of(data_format: str, records: Sequence[Record]) -> Keys:
    """Keys of records of a table."""
    return keys_of_views(comparison_texts(data_format, columns_of(data_format, records)))


def keys_of_messages(rows: Iterable[Sequence[Message]]) -> Keys:
    """Keys of conversations."""
    return keys_of_views(views_of_messages(pa.array(rows, MESSAGES)))


def keys_of_views(views: ComparisonTexts) -> Keys:
    """Keys of rows from what is compared of them."""
    shingles, lengths = shingles_of_views(views.prompts, views.answers)
    digests = np.frombuffer(b"".join(sha256_of_each(views.prompts)), dtype=">u8").astype(np.uint64).reshape(-1, 4)
    prompt, answer = digests[:, 2].copy(), hash_texts(views.answers)
    normal = mix(prompt * PLACES[0] + answer * PLACES[1])
    return Keys(hash_texts(views.exact), normal, prompt, answer, digests[:, :2].copy(), shingles, lengths)


def shingles_of_views(prompts: pa.Array, answers: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(shingles, number per row) of prompt + answer."""
    space = pa.scalar(" ", pa.large_string())
    return shingle(without_turns(pc.binary_join_element_wise(prompts, answers, space)))


def without_turns(views: pa.Array) -> pa.Array:
    """Views as words and single spaces: the marks between turns, and a space where a side is empty, are no words."""
    nothing_between = pc.starts_with(views, " ").true_count == pc.ends_with(views, " ").true_count == 0
    if nothing_between and not (buffers(views)[1] == 0x1F).any():
        return views
    return pc.ascii_trim(pc.replace_substring(views, TURN, " "), " \x1f")


def group_names(group: np.ndarray) -> list[str]:
    """The groups of Keys as 32 hex digits each."""
    digits = group.astype(">u8").tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def prompt_of(messages: Sequence[Message]) -> str:
    """The normalised human turns."""
    return TURN.join(normalise(message["content"]) for message in messages if message["role"] == "user")


def hash_texts(texts: Texts) -> np.ndarray:
    """uint64 of each text (SipHash with a fixed key)."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    objects = texts.to_numpy(zero_copy_only=False) if isinstance(texts, pa.Array) else np.array(texts, dtype=object)
    return pd.util.hash_array(objects, categorize=False)
