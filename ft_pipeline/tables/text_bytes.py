"""The bytes of many texts at once."""

import numpy as np
import pyarrow as pa


def buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 offsets, uint8 data) of a large_string array: text i is data[offsets[i]:offsets[i + 1]]."""
    _, offsets, data = texts.buffers()
    positions = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return positions, np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, np.uint8)
