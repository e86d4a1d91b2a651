"""Split the pairs and texts that train in addition to conversations, and leave out those that show a held-out row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.dedup.keys import Keys, groups_of, keys_of, keys_of_messages
from ft_pipeline.tables.formats.text import FORMAT as TEXT
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.held_out import HeldOut, read_held_out
from ft_pipeline.tables.splits import TRAIN, VALIDATION, place_in_splits

BATCH_ROWS = 4096
"""Rows that are Python objects at a time."""
LEFT_OUT = 255
"""Stands for a split, of a row that is left out."""


def split_or_leave_out(
    conversations: Path, table: pa.Table, shares: DataSettings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return (uint8: the split of each row, TRAIN, VALIDATION or LEFT_OUT; the rows left out as `train_test_overlap`).

    table: the columns file, row and text; or file, row, prompt_messages, and chosen and rejected, completion, or
    answer. The hash of the text, or of the prompt as for conversations, decides the split, so that new rows do not move
    old ones. A row whose hash means "test" for conversations is trained on here, unless it shows a held-out row of the
    conversations. A validation row with a thumb may show a validation row: of calls with feedback, the conversation and
    the thumb are both held out.
    """
    splits, left_out = np.full(len(table), TRAIN, np.uint8), []
    compare = next(function for column, function in _COMPARED_BY.items() if column in table.column_names)
    held_out = read_held_out(conversations)
    may_be_shown = held_out.names_of("validation") if compare is _compare_completions else frozenset()
    for begin in range(0, len(table), BATCH_ROWS):
        rows, part = table.slice(begin, BATCH_ROWS).to_pylist(), slice(begin, begin + BATCH_ROWS)
        keys, names = compare(held_out, rows)
        splits[part][place_in_splits(groups_of(keys, shares), shares) == VALIDATION] = VALIDATION
        for position, (row, name) in enumerate(zip(rows, names, strict=True), begin):
            if name is not None and not (splits[position] == VALIDATION and name in may_be_shown):
                splits[position] = LEFT_OUT
                left_out.append({"file": row["file"], "row": row["row"], "code": "train_test_overlap", "copy_of": name})
    return splits, left_out


def _compare_texts(held_out: HeldOut, rows: Sequence[dict[str, Any]]) -> tuple[Keys, list[str | None]]:
    """Return the keys of texts, and the name of something held out that each shows, or None."""
    texts = [row["text"] for row in rows]
    return keys_of(TEXT, [(text,) for text in texts]), held_out.in_texts(texts)


def _compare_pairs(held_out: HeldOut, rows: Sequence[dict[str, Any]]) -> tuple[Keys, list[str | None]]:
    """Return the keys of the prompts of pairs, and the name of something held out that each prompt shows together with
    one of its answers, or None."""
    prompts = [plain(row["prompt_messages"]) for row in rows]
    names: list[str | None] = [None] * len(rows)
    for side in ("chosen", "rejected"):
        answered = [[*prompt, *plain(row[side])] for prompt, row in zip(prompts, rows, strict=True)]
        names = [name or found for name, found in zip(names, held_out.in_conversations(answered), strict=True)]
    return keys_of_messages(prompts), names


def _compare_completions(held_out: HeldOut, rows: Sequence[dict[str, Any]]) -> tuple[Keys, list[str | None]]:
    """Return the keys of the prompts of answers with a thumb, and the name of something held out that each shows."""
    prompts = [plain(row["prompt_messages"]) for row in rows]
    answered = [[*prompt, *plain(row["completion"])] for prompt, row in zip(prompts, rows, strict=True)]
    return keys_of_messages(prompts), held_out.in_conversations(answered)


def _compare_answers(held_out: HeldOut, rows: Sequence[dict[str, Any]]) -> tuple[Keys, list[str | None]]:
    """Return the keys of the prompts of a teacher's answers, and the name of something held out that each shows."""
    prompts = [plain(row["prompt_messages"]) for row in rows]
    answered = [
        [*prompt, {"role": "assistant", "content": row["answer"]}] for prompt, row in zip(prompts, rows, strict=True)
    ]
    return keys_of_messages(prompts), held_out.in_conversations(answered)


_COMPARED_BY = {
    "text": _compare_texts,
    "chosen": _compare_pairs,
    "completion": _compare_completions,
    "answer": _compare_answers,
}
"""A column that only one kind of table has → how its rows are compared with what is held out."""
