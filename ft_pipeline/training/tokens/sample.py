"""Deterministic samples of rows: at most a number of them for a held-out loss, and a weighted part for a training."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def sample_rows(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of `rows`, in their order: those whose `id` has the lowest hash.

    The sample does not depend on a seed, so that all models are measured on the same rows. A new row replaces at most
    one row of the sample, and a smaller sample is part of a larger one.
    """
    if len(rows) <= limit:
        return list(rows)
    hashes = [hashlib.sha256(f"evaluation:{row['id']}".encode()).digest() for row in rows]
    lowest = sorted(range(len(rows)), key=hashes.__getitem__)[:limit]
    return [rows[index] for index in sorted(lowest)]


def apply_weight(ids: Sequence[str], weight: float, seed: int) -> np.ndarray:
    """Return the positions (int64) of rows times `weight`: whole copies, then for the fraction the rows with the lowest
    seeded hash of their id."""
    copies = math.floor(weight)
    drawn = round((weight - copies) * len(ids))
    order: list[int] = []
    if drawn:
        hashes = [hashlib.sha256(f"{seed}:{row_id}".encode()).digest() for row_id in ids]
        order = sorted(range(len(ids)), key=hashes.__getitem__)[:drawn]
    return np.concatenate([np.tile(np.arange(len(ids)), copies), np.array(order, dtype=np.int64)])
