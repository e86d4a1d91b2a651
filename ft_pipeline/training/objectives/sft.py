"""Rows of `sft`: conversations and distilled answers, mixed by weight; the loss is on the assistant's turns alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import Message, with_prompt
from ft_pipeline.models.reasoning import without_reasoning
from ft_pipeline.settings.experiment import ExperimentData, ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.relabels import relabeled
from ft_pipeline.training.objectives.cpt import replay_blocks
from ft_pipeline.training.objectives.rows import PreparedRows, RowSource, TableRows
from ft_pipeline.training.tokens.chat_tokens import (
    DroppedTurns,
    Rendered,
    TrainedCalls,
    encode,
    find_dropped_turns,
    reasoning_dropped,
    render_conversation,
    trained_calls,
)
from ft_pipeline.training.tokens.sample import apply_weight
from ft_pipeline.training.tokens.token_audit import AnswerChecks, Row, combine_checks

_COLUMNS = ["id", "split", "table", "file", "row", "messages", "tools"]


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the rows of conversations, distilled answers and replayed texts. UserError if a split has no row."""
    checks = AnswerChecks(tokenizer)
    parts, relabels = _mix(job, settings), job.handling.get("relabels", {})
    answers = RowSource(
        sum(len(part) for _, part in parts),
        lambda items: _tokenize(tokenizer, _relabeled(_rows_of(parts, items), relabels), settings.data),
        checks.add,
    )
    if settings.data.weights.replay <= 0:
        return PreparedRows([answers], checks.results)
    replay = replay_blocks(job, tokenizer, limits["max_length"], settings.data, settings.training.seed)
    return PreparedRows(
        [answers, *replay.sources], lambda: combine_checks(checks.results(), replay.checks()), replay.left_out
    )


_Parts = Sequence[tuple[str, TableRows]]
"""Rows that train one after the other: (their source, rows)."""


def _rows_of(parts: _Parts, items: slice) -> list[dict[str, Any]]:
    """Return the rows in a range of all parts, with their `source`."""
    rows, first = [], 0
    for source, part in parts:
        part_rows = part.read(max(items.start - first, 0), max(items.stop - first, 0))
        rows += [{**row, "source": source} for row in part_rows]
        first += len(part)
    return rows


def _relabeled(rows: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return rows with the labels that people gave again to train rows. labels: by the id of the row."""
    return [relabeled(row, labels) if row["split"] == "train" else row for row in rows]


def _mix(job: Job, settings: ExperimentSettings) -> _Parts:
    """Return the rows that train, each source weighted, and the validation rows, which are human and not weighted."""
    human = read_columns(job.inputs["conversations"] / "rows.parquet", _COLUMNS)
    splits = human["split"].to_numpy()
    train, validation = (np.flatnonzero(splits == split) for split in ("train", "validation"))
    distilled, answers = human.slice(0, 0), np.empty(0, dtype=np.int64)
    if "distilled" in job.inputs:
        distilled = read_columns(job.inputs["distilled"] / "rows.parquet", _COLUMNS)
        answers = np.arange(len(distilled))
    weights, share, seed = settings.data.weights, settings.data.share, settings.training.seed
    train, answers = _without(settings.data.without, (human, train), (distilled, answers))
    train, answers = (_weighted(table, rows, share, seed) for table, rows in ((human, train), (distilled, answers)))
    parts = [
        ("human", TableRows(human, _weighted(human, train, weights.human, seed))),
        ("distilled", TableRows(distilled, _weighted(distilled, answers, weights.distilled, seed))),
        ("human", TableRows(human, validation)),
    ]
    trained = len(parts[0][1]) + len(parts[1][1])
    if not trained or not len(validation):
        name = "validation" if trained else "training"
        raise UserError(
            f"No {name} rows: {len(train)} human rows × weight {weights.human:g} and {len(answers)} distilled rows × "
            f"weight {weights.distilled:g} for training, {len(validation)} for validation. Add data, or change "
            "data.weights of the experiment or the shares in project.yaml."
        )
    return parts


def _without(sources: Sequence[str], *parts: tuple[pa.Table, np.ndarray]) -> list[np.ndarray]:
    """Return the rows of each part, (table, positions of rows), without those of some tables or files. UserError if one
    of them has no row in any part."""
    if not sources:
        return [rows for _, rows in parts]
    files = [
        [
            (row["table"], f"{row['table']}/{row['file']}")
            for row in table.select(["table", "file"]).take(rows).to_pylist()
        ]
        for table, rows in parts
    ]
    known = {name for of_part in files for names in of_part for name in names}
    if unknown := set(sources) - known:
        raise UserError(
            f"data.without names {min(unknown)!r}, which has no training row. Name one of {', '.join(sorted(known))}."
        )
    left_out = set(sources)
    return [
        rows[np.array([left_out.isdisjoint(names) for names in of_part], dtype=bool)]
        for (_, rows), of_part in zip(parts, files, strict=True)
    ]


def _weighted(table: pa.Table, rows: np.ndarray, weight: float, seed: int) -> np.ndarray:
    """Return the positions of some rows of a table, times their weight."""
    return rows[apply_weight(table["id"].take(pa.array(rows)).to_pylist(), weight, seed)]


def _tokenize(tokenizer: Any, rows: list[dict[str, Any]], data: ExperimentData) -> list[Row]:
    """Return the training rows of conversations: one of each, or one per assistant turn."""
    texts: list[tuple[dict[str, Any], Rendered, DroppedTurns | None, TrainedCalls]] = []
    for row in rows:
        whole = with_prompt(plain(row["messages"]), data.system_prompt, [])
        messages = without_reasoning(whole) if data.reasoning == "drop" else whole
        first, *rest = _render(tokenizer, row, messages, trains_reasoning=data.reasoning == "train")
        dropped = find_dropped_turns(messages, [first, *rest])
        if data.reasoning == "drop":
            dropped = reasoning_dropped(whole, dropped)
        called = trained_calls(messages, [first, *rest])
        texts += [(row, first, dropped, called[0])]
        texts += [(row, text, None, calls) for text, calls in zip(rest, called[1:], strict=True)]
    encoded = encode(tokenizer, [text for _, text, _, _ in texts])
    return [
        Row(
            row["id"],
            row["source"],
            row["split"],
            row["table"],
            row["file"],
            row["row"],
            text,
            tokens,
            dropped,
            calls,
            row.get("tools"),
        )
        for (row, text, dropped, calls), tokens in zip(texts, encoded, strict=True)
    ]


def _render(tokenizer: Any, row: dict[str, Any], messages: list[Message], *, trains_reasoning: bool) -> list[Rendered]:
    """Return render_conversation of the messages. Its UserError also names the row."""
    try:
        return render_conversation(tokenizer, messages, row.get("tools"), trains_reasoning=trains_reasoning)
    except UserError as error:
        raise UserError(f"{row['file']}:{row['row']}: {error}") from error
