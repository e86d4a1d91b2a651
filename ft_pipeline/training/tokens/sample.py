"""Deterministic samples of rows: at most a number of them for a held-out loss, and a weighted part for a training."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any


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


def apply_weight(rows: list[dict[str, Any]], weight: float, seed: int) -> list[dict[str, Any]]:
    """Return `rows` times `weight`: whole copies, then for the fraction the rows with the lowest seeded hash of their
    id."""
    copies, share = math.floor(weight), weight - math.floor(weight)
    order = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row['id']}".encode()).digest())
    return rows * copies + order[: round(share * len(rows))]
