"""Axolotl's preference data sets: pairs of texts, or of turns."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.axolotl_turns import map_turn_keys, roles_of, turn_keys
from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.row_edits import (
    Row,
    answers_as_turns,
    pair_with_context,
    ranked_answers,
    read_rows,
    system_in_lists,
    without,
)
from ft_pipeline.exchange.their_settings import NotTakenOver

PAIR_PROMPTS = {
    "intel": ("question",),
    "icr": ("input",),
    "prompt_pairs": ("prompt",),
    "ultra": ("prompt",),
    "argilla": ("instruction",),
    "default": ("prompt", "input", "question", "instruction"),
}
"""Loader of a preference type → the columns that may be its prompt."""


def set_pairs(data: DataSet, entry: dict[str, Any]) -> None:
    """Set columns and changes of rows for a data set of pairs. NotTakenOver if its type has no counterpart."""
    kind = entry.get("type")
    data.data_format = "preferences"
    if isinstance(kind, dict):
        prompt, chosen, rejected = (str(kind.get(f"field_{name}") or name) for name in ("prompt", "chosen", "rejected"))
        data.columns = {prompt: "prompt", chosen: "chosen", rejected: "rejected"}
        system = str(kind.get("field_system") or "system")
        data.edits.append(pair_with_context(prompt, chosen, rejected, system, None))
        return
    family, _, loader = str(kind or "none.default").partition(".")
    loader = loader or "default"
    if family == "chat_template":
        _set_turn_pairs(data, entry, loader)
    elif family == "zephyr" and loader == "nectar":
        data.edits.append(ranked_answers())
    elif family in ("chatml", "llama3", "none", "passthrough") and loader == "argilla_chat":
        data.columns = {"chosen": "chosen", "rejected": "rejected"}
        data.edits.append(without("prompt", "a type without prompt"))
    elif family in ("chatml", "llama3", "none", "passthrough") and loader in PAIR_PROMPTS:
        _set_text_pairs(data, loader)
    else:
        raise NotTakenOver(
            f"The type {kind!r} builds its pairs in its own way. Convert the rows to prompt, chosen, rejected."
        )


def _set_text_pairs(data: DataSet, loader: str) -> None:
    row = first_row(data.paths) or {}
    names = PAIR_PROMPTS[loader]
    prompt = next((name for name in names if name in row), names[0])
    sides = [
        next(
            (name for name in (side, f"{side}_response") if name in row),
            f"{side}_response" if loader == "argilla" else side,
        )
        for side in ("chosen", "rejected")
    ]
    data.columns = {prompt: "prompt", sides[0]: "chosen", sides[1]: "rejected"}
    data.edits.append(pair_with_context(prompt, sides[0], sides[1], "system", None))
    data.edits.append(system_in_lists(sides[0], sides[1]))


def _set_turn_pairs(data: DataSet, entry: dict[str, Any], loader: str) -> None:
    chosen, rejected = str(entry.get("field_chosen") or "chosen"), str(entry.get("field_rejected") or "rejected")
    data.columns = {chosen: "chosen", rejected: "rejected"}
    keys = turn_keys(entry)
    if loader == "argilla_chat":
        data.edits += [without(name, f"a type without {name}") for name in ("prompt", "conversations", "messages")]
    elif loader == "default":
        messages = str(entry.get("field_messages") or "messages")
        data.columns[messages] = "prompt"
        role, content = keys.get("role", "role"), keys.get("content", "content")
        data.edits.append(answers_as_turns(messages, chosen, rejected, role, content))
    else:
        raise NotTakenOver(f"The type chat_template.{loader} is unknown to the import. Use chat_template.default.")
    map_turn_keys(data, entry, keys)
    data.roles = roles_of(entry, has_role_key=keys.get("role", "role") == "role")


def first_row(paths: Iterable[Path]) -> Row | None:
    """Return the first row of the files that is an object; None if there is none."""
    for path in paths:
        try:
            for row in read_rows(path):
                if isinstance(row, dict):
                    return row
        except UserError:
            continue
    return None
