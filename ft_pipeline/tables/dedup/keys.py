"""Keys that rows are compared by: 64-bit hashes of exact and normalized texts, groups, and some windows.

Arrow and numpy compute them in batches. They are the same on every machine and in every process.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.lowest_windows import KEPT, lowest_windows
from ft_pipeline.tables.dedup.shingles import mark_answers, shingle
from ft_pipeline.tables.dedup.templates import template_hashes
from ft_pipeline.tables.dedup.tokens import Texts, as_array, tokenize, words_of
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, columns_of
from ft_pipeline.tables.formats.base import Format, Record
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, join_texts, text_scalar, views_of_messages
from ft_pipeline.tables.formats.row_ids import sha256_of_each
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.text_bytes import having, squeezed, table_of

if TYPE_CHECKING:  # a process that reads rows needs no settings, which take time to load
    from ft_pipeline.settings.data import DataSettings

_DIGITS = table_of(b"0123456789")
_NUMBER = r"[0-9][A-Za-z0-9]*[0-9][A-Za-z0-9]*[0-9]"
"""Every ASCII text in which a template masks something matches this pattern."""
_WORDS = bytes(byte if byte < 128 and chr(byte).isalnum() else ord(" ") for byte in range(256))
"""ASCII letters and digits, and spaces in the place of all other bytes."""


@dataclass
class Keys:
    """One entry per row."""

    exact: np.ndarray
    """uint64 of all strings of the row, unchanged."""
    normal: np.ndarray
    """uint64 of the normalized row."""
    prompt: np.ndarray
    """uint64 of the normalized human turns."""
    answer: np.ndarray
    """uint64 of the normalized rest."""
    group: np.ndarray
    """uint64, shape (rows, 2): a hash of the template of the human turns (dedup/templates.py); without one, the first
    half of the SHA-256 of their words, so that no space or comma makes a difference. It must never change: it decides
    the split."""
    windows: np.ndarray
    """uint32, shape (rows, KEPT): rows near each other share three of them (dedup/lowest_windows.py)."""
    has_own_group: np.ndarray
    """bool: the group is that of the row's session or named group, whatever its prompt is."""

    def __len__(self) -> int:
        return len(self.group)

    def tables(self, kept: np.ndarray | None = None) -> Iterator[pa.Table]:
        """Yield the keys as tables of at most TABLE_ROWS rows. kept: bool per row, None for all rows."""
        for begin in range(0, max(len(self), 1), TABLE_ROWS):
            part = slice(begin, begin + TABLE_ROWS)
            columns = {name: getattr(self, name)[part] for name in _HASHES}
            columns |= {"group_high": self.group[part, 0], "group_low": self.group[part, 1]}
            if self.has_own_group.any():
                columns[_OWN_GROUP] = self.has_own_group[part]
            table = pa.table(columns | {f"window_{number}": self.windows[part, number] for number in range(KEPT)})
            yield table if kept is None else table.filter(pa.array(kept[part]))

    @classmethod
    def empty(cls, count: int, *, for_duplicates: bool = True) -> "Keys":
        """Return keys of `count` rows, to be filled by `fill`. for_duplicates: False leaves out the keys of
        FOR_DUPLICATES, which are more than half of the memory."""
        of_duplicates = count if for_duplicates else 0
        hashes = {name: np.empty(of_duplicates if name in FOR_DUPLICATES else count, np.uint64) for name in _HASHES}
        windows = np.empty((of_duplicates, KEPT), np.uint32)
        group, has_own_group = np.empty((count, 2), np.uint64), np.zeros(count, dtype=bool)
        return cls(**hashes, group=group, windows=windows, has_own_group=has_own_group)

    def fill(self, begin: int, table: pa.Table | pa.RecordBatch) -> None:
        """Copy a table of `tables` to the rows from `begin` on. Keys that were left out stay empty."""
        rows = slice(begin, begin + table.num_rows)
        for name in _HASHES:
            if len(getattr(self, name)):
                getattr(self, name)[rows] = table[name]
        self.group[rows, 0], self.group[rows, 1] = table["group_high"], table["group_low"]
        if _OWN_GROUP in _names_of(table):
            self.has_own_group[rows] = table[_OWN_GROUP]
        for number in range(KEPT if len(self.windows) else 0):
            self.windows[rows, number] = table[f"window_{number}"]

    def take(self, rows: np.ndarray) -> "Keys":
        """Return the keys of some rows, in the order of `rows`."""
        return Keys(*(getattr(self, name)[rows] for name in _FIELDS))

    def grouped_by(self, names: pa.Array, kind: str) -> "Keys":
        """Return the keys with one group for each name. Rows without a name (null) keep the group of their prompt.

        kind: of the names. Equal names of two kinds are two groups.
        """
        named = np.flatnonzero(names.is_valid().to_numpy(zero_copy_only=False))
        group, has_own_group = self.group.copy(), self.has_own_group.copy()
        texts = pc.binary_join_element_wise(f"{kind}\x1f", names.take(pa.array(named)), "").cast(pa.large_string())
        digests = np.frombuffer(b"".join(sha256_of_each(texts)), dtype=">u8").astype(np.uint64).reshape(-1, 4)
        group[named], has_own_group[named] = digests[:, :2], True
        return replace(self, group=group, has_own_group=has_own_group)


TABLE_ROWS = 1 << 18
MIN_CHANGED = 19
"""Number of shingles from which a changed word leaves nine tenths of them, at the end of a text."""
END_CHARS = 20
"""Number of characters at the begin and at the end of an answer that near answers have in common: "Yes, …" is not near
"No, …"."""
FOR_DUPLICATES = ("exact", "normal", "window")
"""What the names of the columns begin with that only the search of duplicates needs."""
_HASHES = ("exact", "normal", "prompt", "answer")
_FIELDS = (*_HASHES, "group", "windows", "has_own_group")
_OWN_GROUP = "own_group"


def _names_of(table: pa.Table | pa.RecordBatch) -> list[str]:
    return table.schema.names


def merge(parts: Sequence[Keys], *, consume: bool = False) -> Keys:
    """Concatenate the keys of several batches. consume: to save memory, the parts lose their keys meanwhile."""
    if not parts:
        return Keys.empty(0)
    if len(parts) == 1:
        return parts[0]
    columns = {}
    for name in _FIELDS:
        columns[name] = np.concatenate([getattr(part, name) for part in parts])
        for part in parts if consume else ():
            setattr(part, name, columns[name][:0])
    return Keys(**columns)


def write_keys(keys: Keys, kept: np.ndarray, path: Path) -> None:
    """Write the keys of the kept rows for the conversations, so that each text is normalized only once."""
    tables = keys.tables(kept)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def read_keys(paths: Sequence[Path], *, for_duplicates: bool = True) -> Keys:
    """Return the keys that write_keys wrote to these files, file after file. for_duplicates: see Keys.empty."""
    count, begin = sum(pq.read_metadata(path).num_rows for path in paths), 0
    keys = Keys.empty(count, for_duplicates=for_duplicates)
    for path in paths:
        with open_parquet(path) as file:
            names = [name for name in file.schema_arrow.names if for_duplicates or not name.startswith(FOR_DUPLICATES)]
            for batch in file.iter_batches(TABLE_ROWS, columns=names):
                keys.fill(begin, batch)
                begin += batch.num_rows
    return keys


def read_windows(paths: Sequence[Path]) -> np.ndarray:
    """Return `Keys.windows` of the rows of these files, file after file."""
    windows, begin = np.empty((sum(pq.read_metadata(path).num_rows for path in paths), KEPT), np.uint32), 0
    for path in paths:
        with open_parquet(path) as file:
            for batch in file.iter_batches(TABLE_ROWS, columns=[f"window_{number}" for number in range(KEPT)]):
                for number, column in enumerate(batch.columns):
                    windows[begin : begin + batch.num_rows, number] = column
                begin += batch.num_rows
    return windows


def keys_of(row_format: Format, records: Sequence[Record]) -> Keys:
    """Return the keys of rows of a format."""
    return keys_of_views(row_format.comparison_texts(columns_of(row_format, records)))


def keys_of_messages(rows: Iterable[Sequence[Message]]) -> Keys:
    """Return the keys of conversations."""
    return keys_of_views(views_of_messages(pa.array(rows, MESSAGES)))


def keys_of_views(views: ComparisonTexts) -> Keys:
    """Return the keys of rows from their comparison texts."""
    prompt, answer = hash_texts(views.prompts), hash_texts(views.answers)
    return Keys(
        exact=hash_texts(views.exact),
        normal=mix(prompt * PLACES[0] + answer * PLACES[1]),
        prompt=prompt,
        answer=answer,
        group=_groups(views),
        windows=lowest_windows(*shingles_of_views(views)),
        has_own_group=np.zeros(len(prompt), dtype=bool),
    )


def _groups(views: ComparisonTexts) -> np.ndarray:
    words = _joined_words(views.prompts)
    digests = np.frombuffer(b"".join(sha256_of_each(words)), dtype=">u8").astype(np.uint64).reshape(-1, 4)
    groups = digests[:, :2].copy()
    may_be_template = pc.invert(pc.string_is_ascii(views.asked)).to_numpy(zero_copy_only=False)
    digits = np.flatnonzero(having(views.asked, _DIGITS))
    numbers = pc.match_substring_regex(views.asked.take(pa.array(digits)), _NUMBER).to_numpy(zero_copy_only=False)
    may_be_template[digits[numbers]] = True
    texts = np.flatnonzero(may_be_template)
    templates, is_template = template_hashes(tokenize(views.asked.take(pa.array(texts))))
    hashes = np.stack([mix(templates * place) for place in PLACES[:2]], axis=1)
    groups[texts[is_template]] = hashes[is_template]
    return groups


def _joined_words(texts: pa.Array) -> pa.Array:
    """Return the words of each normalized text, a space between them; a text without words as it is."""
    words = pc.ascii_trim(squeezed(texts, _WORDS), " ")
    others = pc.invert(pc.string_is_ascii(texts))
    if pc.any(others).as_py():
        joined = [" ".join(words_of(text)) for text in texts.filter(others).to_pylist()]
        words = pc.replace_with_mask(words, others, pa.array(joined, pa.large_string()))
    return pc.if_else(pc.equal(words, text_scalar("")), texts, words)


def groups_of(keys: Keys, settings: "DataSettings") -> np.ndarray:
    """Return the groups by which rows are split: `Keys.group`, or hashes of the prompts if templates do not count."""
    if settings.group_templates:
        return keys.group
    return np.where(keys.has_own_group[:, None], keys.group, groups_of_prompts(keys.prompt))


def groups_of_prompts(prompts: np.ndarray) -> np.ndarray:
    """Return a group for each hash of a prompt, shape (rows, 2)."""
    return np.stack([mix(prompts * place) for place in PLACES[:2]], axis=1)


def shingles_of_views(views: ComparisonTexts) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 3-word shingles of prompt + answer, int64 number per row)."""
    return shingle(join_texts(views.prompts, views.answers, " "))


def compared_parts(views: ComparisonTexts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (marked shingles, number per row, uint64 of what the answers of near rows have in common), as
    near_duplicates.find_near needs them. The answer is all that the model says."""
    shingles, lengths = shingles_of_views(views)
    answers, sizes = shingle(views.spoken)
    marked = mark_answers(shingles, lengths, answers, sizes)
    return marked, lengths, hash_texts(_ends_and_numbers(views.spoken, sizes))


def _ends_and_numbers(answers: pa.Array, sizes: np.ndarray) -> pa.Array:
    """Return the beginning, the numbers and the end of each long answer, and short answers as they are.

    Long answers may differ in a few words between, but in no number. sizes: of shingles; with fewer of them, answers
    that differ cannot have nine tenths in common.
    """
    is_long = pa.array(sizes >= MIN_CHANGED)
    long = answers.filter(is_long)
    numbers = pc.replace_substring_regex(long, "[^0-9]+", " ")
    first, last = pc.utf8_slice_codeunits(long, 0, END_CHARS), pc.utf8_slice_codeunits(long, -END_CHARS)
    parts = pc.binary_join_element_wise(first, numbers, last, text_scalar(""))
    return pc.replace_with_mask(answers, is_long, parts)


def group_names(group: np.ndarray) -> list[str]:
    """Return each group of `Keys` as 32 hex digits."""
    digits = group.astype(">u8").tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def hash_texts(texts: Texts) -> np.ndarray:
    """Return the uint64 of each text (SipHash of its UTF-8 with a fixed key)."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    encoded = as_array(texts).cast(pa.large_binary()).to_numpy(zero_copy_only=False)
    return pd.util.hash_array(encoded, categorize=False)
