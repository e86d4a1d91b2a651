"""The rows that a tuned model learned from, with their texts, as pairs of a question and an answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.training_facts import phase_adapters
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.tables.excluded_rows import MARKER_START
from ft_pipeline.tables.formats.turns import is_trained, spoken_text
from ft_pipeline.tables.relabels import relabeled, trained_labels

_TABLES = ("conversations", "distilled", "preferences", "feedback")
"""The tables with answers that are trained."""
MAX_ROWS = 50_000
"""Rows of each table that are read, in the order of their ids, which are hashes: a random sample."""


@dataclass(frozen=True)
class TrainedAnswer:
    """One answer that a model learned."""

    origin: str
    """table/file:row."""
    question: str
    """The turn before the answer."""
    answer: str


def trained_answers(store: ArtifactStore, adapter: Artifact) -> list[TrainedAnswer]:
    """Return the answers that the model of an adapter learned, in all phases of its training, each once.

    Of preference pairs, the preferred answer counts; of feedback, answers with a thumb up; of prompts, the answer that
    rewards compare with. Raw text has no answers. Of tables with more than MAX_ROWS rows, a sample is read.
    """
    found: dict[TrainedAnswer, None] = {}
    for phase in phase_adapters(store, adapter):
        data = store.require(*phase.inputs["training_data"])
        ids = pq.read_table(data.path / "train.parquet", columns=["id"])["id"]
        # Of `distill`, the conversations are only prompts: their human answers are not trained.
        learned = ("teacher_distributions",) if "teacher_distributions" in data.inputs else _TABLES
        labels = trained_labels(data.path)
        for table in learned:
            if table in data.inputs:
                rows = [relabeled(row, labels) for row in _read_rows(store.require(*data.inputs[table]), ids)]
                found |= dict.fromkeys(answer for row in rows for answer in _answers(table, row))
    return list(found)


def _read_rows(table: Artifact, ids: Any) -> list[dict[str, Any]]:
    """Return the rows of a table with these ids, at most MAX_ROWS."""
    path = table.path / "rows.parquet"
    wanted = {"id", "table", "file", "row", "messages", "prompt_messages", "chosen", "answer", "completion", "label"}
    columns = [name for name in pq.read_schema(path).names if name in wanted]
    rows = pq.read_table(path, columns=columns)
    rows = rows.filter(pc.is_in(rows["id"], value_set=ids))
    return rows.take(pc.sort_indices(rows["id"])[:MAX_ROWS]).to_pylist()


def _last_turns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the preferred answer of a pair, a rated answer, or the answer of a teacher."""
    return row.get("chosen") or row.get("completion") or [{"role": "assistant", "content": row["answer"]}]


def _answers(table: str, row: Mapping[str, Any]) -> Iterator[TrainedAnswer]:
    """Yield the answers of a row. Erased texts are left out."""
    if row.get("label") is False:  # a thumb down
        return
    origin = f"{row.get('table') or table}/{row['file']}:{row['row']}"
    messages = row.get("messages") or [*row["prompt_messages"], *_last_turns(row)]
    first = 1 if "messages" in row else len(messages) - 1  # of a pair, only the last turn is trained
    for turn in range(first, len(messages)):
        question, answer = spoken_text(messages[turn - 1]), spoken_text(messages[turn])
        if is_trained(messages[turn]) and not answer.startswith(MARKER_START):
            yield TrainedAnswer(origin, question, answer)
