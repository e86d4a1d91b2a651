"""Keys that rows are compared by: 64-bit hashes of exact and normalized texts, groups, and MinHash bands.

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

from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.minhash import BANDS, bands_of
from ft_pipeline.tables.dedup.shingles import shingle
from ft_pipeline.tables.dedup.templates import template_hashes
from ft_pipeline.tables.dedup.tokens import Texts, tokenize
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, columns_of
from ft_pipeline.tables.formats.base import Format, Record
from ft_pipeline.tables.formats.comparison_texts import ComparisonTexts, join_texts, views_of_messages
from ft_pipeline.tables.formats.row_ids import sha256_of_each
from ft_pipeline.tables.formats.turns import Message


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
    answer_template: np.ndarray
    """uint64 of the template of the normalized rest."""
    group: np.ndarray
    """uint64, shape (rows, 2): a hash of the normalized human turns with their numbers masked; without numbers, the
    first half of their SHA-256. It must never change: it decides the split."""
    bands: np.ndarray
    """uint32, shape (rows, BANDS): rows near each other share one of them."""

    def __len__(self) -> int:
        return len(self.exact)

    def to_table(self) -> pa.Table:
        """Return the keys as a table with a row per row."""
        columns = {name: getattr(self, name) for name in _HASHES}
        columns |= {"group_high": self.group[:, 0], "group_low": self.group[:, 1]}
        return pa.table(columns | {f"band_{number}": self.bands[:, number] for number in range(BANDS)})

    @classmethod
    def from_table(cls, table: pa.Table) -> "Keys":
        """Return the keys of `to_table`."""
        bands = np.empty((table.num_rows, BANDS), np.uint32)
        for number in range(BANDS):
            bands[:, number] = table[f"band_{number}"].to_numpy()
        group = np.stack([table["group_high"].to_numpy(), table["group_low"].to_numpy()], axis=1)
        return cls(**{name: table[name].to_numpy() for name in _HASHES}, group=group, bands=bands)

    def take(self, rows: np.ndarray) -> "Keys":
        """Return the keys of some rows, in the order of `rows`."""
        return Keys(*(getattr(self, name)[rows] for name in (*_HASHES, "group", "bands")))


_HASHES = ("exact", "normal", "prompt", "answer", "answer_template")


def merge(parts: Sequence[Keys]) -> Keys:
    """Concatenate the keys of several batches."""
    if not parts:
        return keys_of_messages([])
    if len(parts) == 1:
        return parts[0]
    return Keys(*(np.concatenate([getattr(part, name) for part in parts]) for name in (*_HASHES, "group", "bands")))


def write_keys(keys: Keys, kept: np.ndarray, path: Path) -> None:
    """Write the keys of the kept rows for the conversations, so that each text is normalized only once."""
    pq.write_table(keys.to_table().filter(pa.array(kept)), path, compression="none", use_dictionary=False)


def read_keys(path: Path) -> Keys:
    """Return the keys that write_keys wrote."""
    return Keys.from_table(pq.read_table(path))


def keys_of(row_format: Format, records: Sequence[Record]) -> Keys:
    """Return the keys of rows of a format."""
    return keys_of_views(row_format.comparison_texts(columns_of(row_format, records)))


def keys_of_messages(rows: Iterable[Sequence[Message]]) -> Keys:
    """Return the keys of conversations."""
    return keys_of_views(views_of_messages(pa.array(rows, MESSAGES)))


def keys_of_views(views: ComparisonTexts) -> Keys:
    """Return the keys of rows from their comparison texts."""
    prompt, answer = hash_texts(views.prompts), hash_texts(views.answers)
    digests = np.frombuffer(b"".join(sha256_of_each(views.prompts)), dtype=">u8").astype(np.uint64).reshape(-1, 4)
    group, answer_template = digests[:, :2].copy(), answer.copy()
    texts, templates = _templates(views.prompts)
    group[texts] = np.stack([mix(templates * place) for place in PLACES[:2]], axis=1)
    texts, templates = _templates(views.answers)
    answer_template[texts] = templates
    return Keys(
        exact=hash_texts(views.exact),
        normal=mix(prompt * PLACES[0] + answer * PLACES[1]),
        prompt=prompt,
        answer=answer,
        answer_template=answer_template,
        group=group,
        bands=bands_of(*shingles_of_views(views)),
    )


def _templates(normalized: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (positions of the texts in which a number is masked, uint64 of their templates)."""
    may_have_number = pc.match_substring_regex(normalized, r"(?s)\p{N}.*\p{N}.*\p{N}").to_numpy(zero_copy_only=False)
    positions = np.flatnonzero(may_have_number)
    hashes, is_template = template_hashes(tokenize(normalized.take(pa.array(positions))), mask_names=False)
    return positions[is_template], hashes[is_template]


def shingles_of_views(views: ComparisonTexts) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint64 3-word shingles of prompt + answer, int64 number per row)."""
    return shingle(join_texts(views.prompts, views.answers, " "))


def group_names(group: np.ndarray) -> list[str]:
    """Return each group of `Keys` as 32 hex digits."""
    digits = group.astype(">u8").tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def hash_texts(texts: Texts) -> np.ndarray:
    """Return the uint64 of each text (SipHash with a fixed key)."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    objects = texts.to_numpy(zero_copy_only=False) if isinstance(texts, pa.Array) else np.array(texts, dtype=object)
    return pd.util.hash_array(objects, categorize=False)
