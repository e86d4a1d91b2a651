"""Rows of `sft`: conversations and distilled answers, mixed by weight; the loss is on the assistant's turns alone."""

from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import Message, with_prompt
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.training.objectives.cpt import block_checks, replay_blocks
from ft_pipeline.training.objectives.rows import PreparedRows
from ft_pipeline.training.tokens.chat_tokens import (
    DroppedTurns,
    Rendered,
    encode,
    find_dropped_turns,
    render_conversation,
)
from ft_pipeline.training.tokens.sample import apply_weight
from ft_pipeline.training.tokens.token_audit import Row, answer_checks, combine_checks

_CHUNK = 1024
"""Conversations tokenized at a time: enough to keep the tokenizer's threads busy, few enough to report progress."""


def prepare_rows(job: Job, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> PreparedRows:
    """Return the rows of conversations, distilled answers and replayed texts. UserError if a split has no row."""
    rows = answer_rows(job, settings, tokenizer)
    checks = answer_checks(tokenizer, rows)
    left_out: list[dict[str, Any]] = []
    if settings.data.weights.replay > 0:
        length, seed = limits["max_length"], settings.training.seed
        replay = replay_blocks(job, tokenizer, length, settings.data, seed)
        rows, left_out = rows + replay.blocks, replay.left_out
        checks = combine_checks(checks, block_checks(tokenizer, replay.blocks, replay.texts))
    return PreparedRows(rows, checks, left_out)


def answer_rows(job: Job, settings: ExperimentSettings, tokenizer: Any) -> list[Row]:
    """Return the rows of the inputs conversations and, if present, distilled. UserError if a split has no row."""
    mixed = _mix(job, settings)
    rows: list[Row] = []
    for begin in range(0, len(mixed), _CHUNK):
        rows += _tokenize(tokenizer, mixed[begin : begin + _CHUNK], settings.data.system_prompt)
        job.report.progress(min(begin + _CHUNK, len(mixed)), len(mixed))
    return rows


def _mix(job: Job, settings: ExperimentSettings) -> list[dict[str, Any]]:
    """Return the rows with their `source`. In the train split, each source is weighted. Validation rows are human and
    never weighted."""
    human = _read(job.inputs["conversations"], "human")
    distilled = _read(job.inputs["distilled"], "distilled") if "distilled" in job.inputs else []
    train = [row for row in human if row["split"] == "train"]
    validation = [row for row in human if row["split"] == "validation"]
    weights, share, seed = settings.data.weights, settings.data.share, settings.training.seed
    train, distilled = (apply_weight(rows, share, seed) for rows in (train, distilled))
    training = apply_weight(train, weights.human, seed) + apply_weight(distilled, weights.distilled, seed)
    if not training or not validation:
        name = "training" if not training else "validation"
        raise UserError(
            f"No {name} rows: {len(train)} human rows × weight {weights.human:g} and {len(distilled)} distilled rows × "
            f"weight {weights.distilled:g} for training, {len(validation)} for validation. Add data, or change "
            "data.weights of the experiment or the shares in project.yaml."
        )
    return training + validation


def _read(folder: Path, source: str) -> list[dict[str, Any]]:
    columns = ["id", "split", "file", "row", "messages", "tools"]
    rows = read_columns(folder / "rows.parquet", columns).to_pylist()
    return [{**row, "source": source} for row in rows]


def _tokenize(tokenizer: Any, rows: list[dict[str, Any]], system_prompt: str | None) -> list[Row]:
    """Return the training rows of conversations: one of each, or one per assistant turn."""
    texts: list[tuple[dict[str, Any], Rendered, DroppedTurns | None]] = []
    for row in rows:
        messages = with_prompt(plain(row["messages"]), system_prompt, [])
        first, *rest = _render(tokenizer, row, messages)
        dropped = find_dropped_turns(messages, [first, *rest])
        texts += [(row, first, dropped), *((row, text, None) for text in rest)]
    encoded = encode(tokenizer, [text for _, text, _ in texts])
    return [
        Row(row["id"], row["source"], row["split"], row["file"], row["row"], text, tokens, dropped)
        for (row, text, dropped), tokens in zip(texts, encoded, strict=True)
    ]


def _render(tokenizer: Any, row: dict[str, Any], messages: list[Message]) -> list[Rendered]:
    """Return render_conversation of the messages. Its UserError also names the row."""
    try:
        return render_conversation(tokenizer, messages, row.get("tools"))
    except UserError as error:
        raise UserError(f"{row['file']}:{row['row']}: {error}") from error
