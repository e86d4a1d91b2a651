"""Boilerplate: what many rows of a table share, such as the instructions that an application sends with every request.

It says nothing of whether two rows are near each other, and without it, rows that differ only in a short question would
all be near duplicates.
"""

from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.near_duplicates import ReadShingles, ShingleSets, lowest_bits

SAMPLED_ROWS = 16_384
"""Rows by which it is decided what is boilerplate: all rows, or so many of them at equal distances."""
COMMON_SHARE, COMMON_ROWS = 0.1, 4
"""A shingle in more than this share of the sampled rows, and in more than this many, is boilerplate."""


@dataclass(frozen=True)
class WithoutBoilerplate:
    """Reads the shingles of rows, without those that are boilerplate."""

    read: ReadShingles
    is_common: np.ndarray
    """bool, by the lowest bits of a shingle."""

    @classmethod
    def of(cls, read: ReadShingles, rows: np.ndarray) -> "WithoutBoilerplate":
        """Return a reader that knows what is common among the rows at these positions, which ascend."""
        sampled = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(np.int64))]
        frequencies = ShingleSets.of_rows(*read(sampled)).frequencies()
        return cls(read, frequencies > max(COMMON_ROWS, COMMON_SHARE * len(sampled)))

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (shingles, number per row). A row of nothing but boilerplate has one shingle, which no other row has:
        it is near to none, but may be equal to one."""
        shingles, lengths = self.read(rows)
        owners = np.repeat(np.arange(len(rows)), lengths)
        kept = ~self.is_common[lowest_bits(shingles)]
        empty = np.flatnonzero(np.bincount(owners[kept], minlength=len(rows)) == 0)
        own = mix(rows[empty].astype(np.uint64) * PLACES[1] ^ PLACES[2])
        owners, shingles = np.concatenate([owners[kept], empty]), np.concatenate([shingles[kept], own])
        order = np.argsort(owners, kind="stable")
        return shingles[order], np.bincount(owners, minlength=len(rows))
