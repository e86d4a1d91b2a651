"""Rows of which only the last turn is trained: the answers of pairs, and answers with a thumb."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import prompt_and_target, with_prompt
from ft_pipeline.models.reasoning import without_reasoning
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.training.tokens.chat_tokens import (
    Rendered,
    answer_alone,
    encode,
    find_dropped_turns,
    reasoning_dropped,
)
from ft_pipeline.training.tokens.token_audit import Row


def tokenize_answers(
    tokenizer: Any,
    table: str,
    rows: Sequence[dict[str, Any]],
    column: str,
    sources: Sequence[str],
    settings: ExperimentSettings,
) -> list[Row]:
    """Return a row for each of some rows of a table: its prompt_messages, and the turn in `column`, which is trained.

    sources: Row.source of each.
    """
    texts, called, found = [], [], []
    data = settings.data
    for row in rows:
        whole = with_prompt(plain([*row["prompt_messages"], *row[column]]), data.system_prompt, [])
        conversation = without_reasoning(whole) if data.reasoning == "drop" else whole
        try:
            context, target = prompt_and_target(tokenizer, conversation, row.get("tools"))
        except UserError as error:
            raise UserError(f"{row['file']}:{row['row']}: {error}") from error
        if data.reasoning == "keep":
            context, target = answer_alone(context, target, conversation[-1])
        calls = tuple(conversation[-1].get("tool_calls") or ())
        called.append((calls,) if calls else ())
        texts.append(Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=False))
        dropped = find_dropped_turns(conversation, texts[-1:])
        found.append(reasoning_dropped(whole, dropped) if data.reasoning == "drop" else dropped)
    return [
        Row(
            row["id"],
            source,
            row["split"],
            table,
            row["file"],
            row["row"],
            text,
            tokens,
            replace(dropped, turns=()),
            calls,
            row.get("tools"),
        )
        for row, source, text, tokens, calls, dropped in zip(
            rows, sources, texts, encode(tokenizer, texts), called, found, strict=True
        )
    ]
