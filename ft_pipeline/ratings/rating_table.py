"""ratings.parquet: a row per verdict, in order of time."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.ratings.rating_ledger import Rating

FILE_NAME = "ratings.parquet"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("time", "rater", "candidate", "rival", "item", "group")),
        *((name, pa.string()) for name in ("candidate_answer", "rival_answer")),
        ("candidate_side", pa.int64()),
        ("verdict", pa.string()),
        ("seconds", pa.float64()),
        ("note", pa.string()),
    ]
)
"""The answers are SHA-256 of the UTF-8 texts. A later verdict of the same rater on the same item and answers replaces
the earlier one; readers do that."""


def write_table(ratings: Sequence[Rating], out: Path) -> None:
    """Write the table to the folder `out`."""
    rows = [{name: getattr(rating, name) for name in SCHEMA.names} for rating in ratings]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out / FILE_NAME)
