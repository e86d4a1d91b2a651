"""The answers of a teacher, each kept or set aside with its reason. They are Python objects only a batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ft_pipeline.distillation import answer_table
from ft_pipeline.tables.dedup.keys import Keys, keys_of_messages, merge
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import Message, plain
from ft_pipeline.tables.held_out import read_message_shingles

TABLE = "unlabelled"
"""The table of the prompts."""


class Reason(NamedTuple):
    """Why an answer is set aside."""

    code: str
    message: str
    related_row: str | None = None
    """The row that is the reason ("table/file:row"): the one that it duplicates, a held-out row, or the answer to the
    same prompt that is kept instead."""


@dataclass(frozen=True)
class Answer:
    """One answer of JudgedAnswers, read."""

    position: int
    columns: Mapping[str, Any]
    """Its row in answers.parquet, by column."""

    @property
    def messages(self) -> list[Message]:
        return [*plain(self.columns["prompt_messages"]), {"role": "assistant", "content": self.columns["answer"]}]


class JudgedAnswers:
    """The rows of answers.parquet, in its order, and the reasons of those that are set aside."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.reasons: dict[int, Reason] = {}
        """Position → reason."""

    @classmethod
    def read(cls, folder: Path) -> "JudgedAnswers":
        """Return the answers of a teacher_answers artifact. None is set aside yet."""
        return cls(read_columns(folder / answer_table.FILE_NAME, answer_table.ANSWERS.names))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def kept(self) -> np.ndarray:
        """int64: the positions of the answers that are not set aside (so far), ascending."""
        kept = np.ones(len(self), dtype=bool)
        kept[list(self.reasons)] = False
        return np.flatnonzero(kept)

    @property
    def set_aside(self) -> list[int]:
        """The positions of the answers that are set aside, ascending."""
        return sorted(self.reasons)

    def origin(self, position: int) -> str:
        """Return the origin of the prompt of an answer."""
        file, row = (self.table[name][position].as_py() for name in ("file", "row"))
        return f"{TABLE}/{file}:{row}"

    def take(self, positions: Sequence[int] | np.ndarray) -> list[Answer]:
        """Return the answers at these positions."""
        rows = self.table.take(pa.array(positions, pa.int64())).to_pylist()
        return [Answer(int(at), row) for at, row in zip(positions, rows, strict=True)]

    def batches(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[Answer]]:
        """Yield the answers at these positions, in batches."""
        for begin in range(0, len(positions), answer_table.BATCH_ROWS):
            yield self.take(positions[begin : begin + answer_table.BATCH_ROWS])

    def keys(self, positions: np.ndarray) -> Keys:
        """Return the keys of whole conversations."""
        batches = self.batches(positions)
        return merge([keys_of_messages([answer.messages for answer in batch]) for batch in batches])

    def read_shingles(self, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the compared parts (dedup.keys) of some conversations."""
        parts = [
            read_message_shingles([answer.messages for answer in batch], np.arange(len(batch)))
            for batch in self.batches(positions)
        ]
        return tuple(map(np.concatenate, zip(*parts, strict=True))) if parts else read_message_shingles([], positions)
