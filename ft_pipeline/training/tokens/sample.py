"""Sample the validation rows of a held-out loss, if there are more than it needs."""

import hashlib
from collections.abc import Sequence
from typing import Any


def sample(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of `rows`, in their order: those whose `id` has the lowest hash.

    The sample does not depend on a seed, so that all models are measured on the same rows. A new row replaces at most
    one row of the sample, and a smaller sample is part of a larger one.
    """
    if len(rows) <= limit:
        return list(rows)
    hashes = [hashlib.sha256(f"evaluation:{row['id']}".encode()).digest() for row in rows]
    chosen = sorted(range(len(rows)), key=hashes.__getitem__)[:limit]
    return [rows[index] for index in sorted(chosen)]
