"""Axolotl's data sets of answers with a thumb (`rl: kto`): prompt, completion and label."""

from typing import Any

from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.row_edits import RowEdit, without
from ft_pipeline.exchange.their_settings import NotTakenOver

THUMB_PROMPTS = {"argilla": "instruction", "intel": "question", "prompt_pairs": "prompt", "ultra": "prompt"}
"""Loader of a type of thumbs → the column that is its prompt."""
_READ_BY_OURS = ("prompt", "messages", "conversations", "tools")
"""Columns that feedback has here, and that theirs reads only under another name or not at all."""


def set_thumbs(data: DataSet, entry: dict[str, Any]) -> None:
    """Set columns and changes of rows for a data set of thumbs. NotTakenOver if its type has no counterpart."""
    kind = entry.get("type")
    data.data_format = "feedback"
    if isinstance(kind, dict):
        names = ("prompt", "completion", "label", "system")
        data.columns = {str(kind.get(f"field_{name}") or name): name for name in names}
    elif kind is None:
        data.columns = {"prompt": "prompt", "completion": "completion", "label": "label"}
        data.edits.append(without("system", "no type"))
    else:
        _set_by_loader(data, str(kind))
    unread = [name for name in _READ_BY_OURS if name not in data.columns]
    data.edits += [without(name, f"a type without {name}") for name in unread]


def _set_by_loader(data: DataSet, kind: str) -> None:
    family, _, loader = kind.partition(".")
    if family in ("chatml", "llama3") and loader in THUMB_PROMPTS:
        data.columns = {THUMB_PROMPTS[loader]: "prompt", "completion": "completion", "label": "label"}
    elif family in ("chatml", "llama3") and loader == "argilla_chat":
        data.columns = {"completion": "conversations", "label": "label"}
        data.edits.append(without("system", "a type without system"))
        if family == "chatml":
            data.edits.append(_kept_turns(kind))
    else:
        raise NotTakenOver(
            f"The type {kind!r} builds its rows in its own way. Convert the rows to prompt, completion, label."
        )


def _kept_turns(kind: str) -> RowEdit:
    """Change nothing, and report the rows of which theirs reads only the first two turns."""
    return RowEdit(
        f"type: {kind}",
        "Theirs reads only the first question and its answer. Ours trains the last answer, after all turns before it.",
        lambda row: isinstance(row.get("completion"), list) and len(row["completion"]) > 2,
        lambda row: row,
    )
