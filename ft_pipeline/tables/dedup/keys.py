"""Keys that rows are compared by: 64-bit hashes of exact and normalized texts, and 3-word shingles.

Arrow and numpy compute them in batches. They are the same on every machine and in every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.shingles import PLACES, Texts, buffers, mix, shingle
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, columns_of
from ft_pipeline.tables.formats.base import Format, Record
from ft_pipeline.tables.formats.comparison_texts import TURN, ComparisonTexts, join_texts, views_of_messages
from ft_pipeline.tables.formats.row_ids import sha256_of_each
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.text_rules import normalise


@dataclass
class Keys:
    """One entry per row."""

    exact: np.ndarray
    """uint64 of all strings of the row, unchanged."""
    normal: np.ndarray
    """uint64 of the normalized row."""
    prompt: np.ndarray
    """uint64 of the normalized human turns: the third quarter of their sha256."""
    answer: np.ndarray
    """uint64 of the normalized rest."""
    group: np.ndarray
    """uint64, shape (rows, 2): the first half of the sha256 of the normalized human turns. It must never change."""
    shingles: np.ndarray
    """uint64 of the 3-word shingles of prompt + answer, row after row; may be memory-mapped from a file."""
    lengths: np.ndarray
    """int64: number of shingles per row."""

    def __len__(self) -> int:
        return len(self.exact)

    def to_table(self) -> pa.Table:
        """Return the hashes as a table with a row per row, without the shingles and their numbers."""
        columns = {name: getattr(self, name) for name in _HASHES}
        return pa.table({**columns, "group_high": self.group[:, 0], "group_low": self.group[:, 1]})

    @classmethod
    def from_table(cls, table: pa.Table, shingles: np.ndarray, lengths: np.ndarray) -> "Keys":
        """Return the keys with the hashes of `to_table`."""
        hashes = {name: table[name].to_numpy() for name in _HASHES}
        group = np.stack([table["group_high"].to_numpy(), table["group_low"].to_numpy()], axis=1)
        return cls(**hashes, group=group, shingles=shingles, lengths=lengths)

    def take(self, rows: np.ndarray) -> "Keys":
        """Return the keys of some rows, in the order of `rows`."""
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
    """Concatenate the keys of several batches. `shingles`: their shingles, if they are already concatenated."""
    if not parts:
        return keys_of_messages([])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_ROW}
    if shingles is None:
        shingles = parts[0].shingles if len(parts) == 1 else np.concatenate([part.shingles for part in parts])
    return Keys(shingles=shingles, **columns)


_HASHES = ("exact", "normal", "prompt", "answer")
_PER_ROW = (*_HASHES, "group", "lengths")


def write_keys(keys: Keys, kept: np.ndarray, path: Path) -> None:
    """Write the hashes of the kept rows for the conversations, so that each text is normalized only once."""
    pq.write_table(keys.to_table().filter(pa.array(kept)), path, compression="none", use_dictionary=False)


def read_keys(path: Path) -> Keys:
    """Return the keys that write_keys wrote, without shingles."""
    table = pq.read_table(path)
    return Keys.from_table(table, np.empty(0, dtype=np.uint64), np.zeros(table.num_rows, dtype=np.int64))


class ShingleFile:
    """The shingles of all rows, appended to a file and memory-mapped, so that they do not fill the memory."""

    def __init__(self, path: Path):
        self._path = path
        self._path.touch()

    def append(self, shingles: np.ndarray) -> None:
        """Append shingles to the file."""
        with self._path.open("ab") as file:
            shingles.tofile(file)

    def read(self) -> np.ndarray:
        """Return all shingles, memory-mapped."""
        if not self._path.stat().st_size:
            return np.empty(0, dtype=np.uint64)
        return np.memmap(self._path, dtype=np.uint64, mode="r")


def keys_of(row_format: Format, records: Sequence[Record]) -> Keys:
    """Return the keys of rows of a format."""
    return keys_of_views(row_format.comparison_texts(columns_of(row_format, records)))


def keys_of_messages(rows: Iterable[Sequence[Message]]) -> Keys:
    """Return the keys of conversations."""
    return keys_of_views(views_of_messages(pa.array(rows, MESSAGES)))


def keys_of_views(views: ComparisonTexts) -> Keys:
    """Return the keys of rows from their comparison texts."""
    shingles, lengths = shingles_of_views(views.prompts, views.answers)
    digests = np.frombuffer(b"".join(sha256_of_each(views.prompts)), dtype=">u8").astype(np.uint64).reshape(-1, 4)
    prompt, answer = digests[:, 2].copy(), hash_texts(views.answers)
    normal = mix(prompt * PLACES[0] + answer * PLACES[1])
    return Keys(hash_texts(views.exact), normal, prompt, answer, digests[:, :2].copy(), shingles, lengths)


def shingles_of_views(prompts: pa.Array, answers: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (shingles, number per row) of prompt + answer."""
    return shingle(without_turns(join_texts(prompts, answers, " ")))


def without_turns(views: pa.Array) -> pa.Array:
    """Return texts as words and single spaces, without turn separators and without the space next to an empty side."""
    nothing_between = pc.starts_with(views, " ").true_count == pc.ends_with(views, " ").true_count == 0
    if nothing_between and not (buffers(views)[1] == 0x1F).any():
        return views
    return pc.ascii_trim(pc.replace_substring(views, TURN, " "), " \x1f")


def group_names(group: np.ndarray) -> list[str]:
    """Return each group of `Keys` as 32 hex digits."""
    digits = group.astype(">u8").tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def prompt_of(messages: Sequence[Message]) -> str:
    """Return the normalized human turns."""
    return TURN.join(normalise(message["content"]) for message in messages if message["role"] == "user")


def hash_texts(texts: Texts) -> np.ndarray:
    """Return the uint64 of each text (SipHash with a fixed key)."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    objects = texts.to_numpy(zero_copy_only=False) if isinstance(texts, pa.Array) else np.array(texts, dtype=object)
    return pd.util.hash_array(objects, categorize=False)
