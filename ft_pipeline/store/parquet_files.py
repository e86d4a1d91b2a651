"""Opens Parquet files that are read in batches."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def open_parquet(path: Path, **options: Any) -> pq.ParquetFile:
    """Return the open file. Close it, or use it as a context.

    pre_buffer: by default, pyarrow 26 keeps the bytes of all the row groups that were read until the file is closed.
    """
    return pq.ParquetFile(path, pre_buffer=False, **options)
