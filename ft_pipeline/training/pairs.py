"""Rows of `dpo`: each pair as two texts, the preferred and the rejected answer after the same prompt."""

from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models.chat import prompt_and_target, with_prompt
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.training.tokens.chat_tokens import Rendered, encode
from ft_pipeline.training.tokens.held_out import keep_from_training
from ft_pipeline.training.tokens.token_audit import Row

PREFERRED, REJECTED = "preferred", "rejected"


def pair_rows(job: Job, settings: ExperimentSettings, tokenizer: Any) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return (rows, pairs left out) of the inputs preferences and conversations: all preferred rows, then all rejected
    rows.

    The hash of its prompt decides whether a pair is held out for validation, as for conversations. UserError if a split
    has no pair.
    """
    columns = ["id", "file", "row", "prompt_messages", "chosen", "rejected"]
    pairs = pq.read_table(job.inputs["preferences"] / "rows.parquet", columns=columns).to_pylist()
    asked = [
        {**pair, "messages": plain(pair["prompt_messages"]), "answer": pair["chosen"][-1]["content"]} for pair in pairs
    ]
    kept, left_out = keep_from_training(
        job.inputs["conversations"], asked, DataSettings.model_validate(job.config["data"])
    )
    for split in ("train", "validation"):
        if not any(pair["split"] == split for pair in kept):
            raise UserError(
                f"No {split} pairs: {len(pairs)} in data/raw/preferences, {len(left_out)} of them near a held-out row. "
                "Add pairs, or change the shares in project.yaml."
            )
    rows = [row for source in (PREFERRED, REJECTED) for row in _tokenize(tokenizer, kept, source, settings)]
    job.report.progress(len(rows), len(rows))
    return rows, left_out


def _tokenize(tokenizer: Any, pairs: list[dict[str, Any]], source: str, settings: ExperimentSettings) -> list[Row]:
    side = "chosen" if source == PREFERRED else "rejected"
    texts = []
    for pair in pairs:
        conversation = with_prompt([*pair["messages"], *plain(pair[side])], settings.data.system_prompt, [])
        try:
            context, target = prompt_and_target(tokenizer, conversation)
        except UserError as error:
            raise UserError(f"{pair['file']}:{pair['row']}: {error}") from error
        texts.append(Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=False))
    return [
        Row(pair["id"], source, pair["split"], pair["file"], pair["row"], text, tokens)
        for pair, text, tokens in zip(pairs, texts, encode(tokenizer, texts), strict=True)
    ]
