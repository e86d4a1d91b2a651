"""The keys of a table's accepted rows, stored for the conversations, so that each text is normalized only once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.keys import Keys

_HASHES = ("exact", "normal", "prompt", "answer")


def write_keys(keys: Keys, kept: np.ndarray, path: Path) -> None:
    """Write the hashes of the kept rows (not their shingles), in the order of rows.parquet."""
    columns = {name: getattr(keys, name)[kept] for name in _HASHES}
    columns |= {"group_high": keys.group[kept, 0], "group_low": keys.group[kept, 1]}
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)


def read_keys(path: Path) -> Keys:
    """The keys that write_keys wrote, without shingles."""
    table = pq.read_table(path)
    hashes = {name: table[name].to_numpy() for name in _HASHES}
    group = np.stack([table["group_high"].to_numpy(), table["group_low"].to_numpy()], axis=1)
    lengths = np.zeros(table.num_rows, dtype=np.int64)
    return Keys(**hashes, group=group, shingles=np.empty(0, dtype=np.uint64), lengths=lengths)
