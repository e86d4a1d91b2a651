"""The columns of `training_data`. Which ones a table has depends on the objective."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from ft_pipeline.tables.finished_tables import FinishedTable
from ft_pipeline.tables.formats.base import Column
from ft_pipeline.training.token_rows import OF_EVERY_ROW, OF_PAIRS

_TOKENS, _NUMBERS = pa.list_(pa.int32()), pa.list_(pa.float32())
COLUMNS = {
    column.name: column
    for column in (
        Column("id", "The row's id in its table"),
        Column("source", "human, distilled, preferred, up, down, prompt, text, replay or teacher"),
        Column("input_ids", "The tokens that the model reads", _TOKENS),
        Column("labels", "The token where it is trained, -100 elsewhere", _TOKENS),
        Column("rejected_ids", "For a pair: the prompt and the rejected answer", _TOKENS),
        Column("rejected_labels", "For a pair: the rejected answer's tokens, -100 elsewhere", _TOKENS),
        Column(
            "conversation",
            "For grpo: the turns that rewards compare an answer with, as JSON",
            pa.large_string(),
            nullable=True,
        ),
        Column(
            "top_ids", "For distill: the teacher's most likely tokens at each trained token", _TOKENS, nullable=True
        ),
        Column("top_log_probabilities", "For distill: their log probabilities", _NUMBERS, nullable=True),
        Column(
            "rest", "For distill: the probability of all other tokens at each trained token", _NUMBERS, nullable=True
        ),
        Column(
            "teacher_prompt", "For distill: what the teacher read before the answer", pa.large_string(), nullable=True
        ),
        Column("answer", "For distill: the answer whose tokens train", pa.large_string(), nullable=True),
    )
}
EXTRA_COLUMNS = {name: COLUMNS[name].arrow_type for name in COLUMNS if name not in OF_EVERY_ROW + OF_PAIRS}
"""Further columns by objective. `distill`: the teacher's distribution at each trained token, the text that it read
before, and the answer, so that an erasure finds a text in them. `grpo`: the conversation that rewards compare with."""


def token_table(names: Iterable[str]) -> FinishedTable:
    """Return the table with these columns, in this order."""
    columns = tuple(COLUMNS[name] for name in names)
    return FinishedTable("training_data", columns, rules={"a label for each token": _labelled})


def _labelled(rows: Any) -> Any:
    return rows["input_ids"].list.len() == rows["labels"].list.len()
