"""Rows that mean the same as a held-out row, in other words: their embeddings have a high cosine similarity."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK_ROWS = 1024
"""Rows that are embedded, and then compared with what is held out, at a time."""
BLOCK_HELD_OUT = 65_536
"""Held-out rows that rows are compared with at a time: 256 MiB of similarities."""
Embed = Callable[[list[str]], np.ndarray]
"""Returns float32 vectors of length 1, shape (texts, width)."""


@dataclass(frozen=True)
class SemanticSearch:
    """An embedding model, and the cosine similarity from which two rows mean the same."""

    embed: Embed
    similarity: float

    def nearest(self, vectors: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (index of the most similar held-out vector, their similarity) of each vector; -1 without any."""
        best = np.full(len(vectors), -1, dtype=np.int64)
        similarity = np.full(len(vectors), -np.inf, dtype=np.float32)
        for begin in range(0, len(held_out), BLOCK_HELD_OUT):
            block = vectors @ held_out[begin : begin + BLOCK_HELD_OUT].T
            nearest = block.argmax(1)
            value = block[np.arange(len(vectors)), nearest]
            is_better = value > similarity
            best[is_better], similarity[is_better] = nearest[is_better] + begin, value[is_better]
        return best, similarity


def texts_of(messages: pa.Array) -> list[str]:
    """Return the human and model turns of each row, a line each, without system prompts, which many rows share."""
    turns = messages.flatten()
    contents, roles = turns.field("content").to_pylist(), turns.field("role").to_pylist()
    texts, begin = [], 0
    for count in pc.list_value_length(messages).to_pylist():
        row = zip(contents[begin : begin + count], roles[begin : begin + count], strict=True)
        texts.append("\n".join(content for content, role in row if role in {"user", "assistant"}))
        begin += count
    return texts
