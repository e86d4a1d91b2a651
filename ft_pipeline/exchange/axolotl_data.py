"""Axolotl's `datasets:` → data files with sidecars."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.exchange.axolotl_pairs import set_pairs
from ft_pipeline.exchange.axolotl_turns import lost_of_turns, map_turn_keys, roles_of, turn_keys
from ft_pipeline.exchange.data_files import DataSet, data_files_of, inside, suffix_of
from ft_pipeline.exchange.remote_data import Remote
from ft_pipeline.exchange.row_edits import RowEdit, parsed_texts, turn_weights, without
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, describe
from ft_pipeline.sources.file_names import stem_of

THUMB_PROMPTS = {"argilla": "instruction", "intel": "question", "prompt_pairs": "prompt", "ultra": "prompt"}
"""Loader of a type of thumbs → the column that is its prompt."""
_READ_BY_OURS = ("prompt", "messages", "conversations", "tools")
"""Columns that feedback has here, and that theirs reads only under another name or not at all."""


PLAIN = {"instruction": "instruction", "input": "input", "output": "output"}
WITH_SYSTEM = {**PLAIN, "system": "system"}
OPEN_ORCA = {"question": "instruction", "response": "output", "system_prompt": "system"}
ALPACA_TYPES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("alpaca", "alpaca_chat", "alpaca_instruct", "alpaca_chat.load_concise"), PLAIN),
    **dict.fromkeys(("alpaca_chat.load_no_prompt", "alpaca_instruct.load_no_prompt"), PLAIN),
    **dict.fromkeys(
        ("alpaca_w_system", "alpaca_w_system.load_instruct", "alpaca_w_system.load_chat", "orcamini"), WITH_SYSTEM
    ),
    "alpaca_chat.load_qa": {"question": "instruction", "answer": "output"},
    "alpaca_chat.load_camel_ai": {"message_1": "instruction", "message_2": "output"},
    **dict.fromkeys(("alpaca_w_system.load_open_orca", "alpaca_w_system.load_open_orca_chatml"), OPEN_ORCA),
    "gpteacher": {"instruction": "instruction", "input": "input", "response": "output"},
    "oasst": {"INSTRUCTION": "instruction", "RESPONSE": "output"},
    "summarizetldr": {"article": "instruction", "summary": "output"},
    "gpt4all": {"prompt": "instruction", "response": "output"},
    "metharme": {"prompt": "instruction", "generation": "output"},
}
"""Type → their column → ours."""
TURN_TYPES = ("chat_template", "sharegpt", "pygmalion", "messages", "messages.chat", "llama2_chat")
KNOWN_KEYS = frozenset(
    {"path", "type", "ds_type", "data_files", "name", "split", "revision", "field", "test_datasets"}
) | {
    *("field_messages", "field_tools", "field_thinking", "field_chosen", "field_rejected", "message_property_mappings"),
    *(
        "message_field_role",
        "message_field_content",
        "message_field_training",
        "roles",
        "text_column",
        "trust_remote_code",
    ),
    *("shuffle", "preprocess_shards", "ds_tipe", "template_thinking_key"),
}
LOST = {
    "shards": "Theirs uses one part of the rows; ours all.",
    "shards_idx": "Theirs uses one part of the rows; ours all.",
    "roles_to_train": "Ours trains the model's turns. Others can be left out with `weight: 0`.",
    "train_on_eos": "Ours trains the end of each answer.",
    "train_on_eot": "Ours trains the end of each answer.",
    "message_field_training_detail": "Theirs trains parts of a turn; ours whole turns.",
    "drop_system_message": "Theirs leaves system turns out; ours keeps them.",
    "chat_template": "Ours writes turns as the base model's own chat template does.",
    "chat_template_jinja": "Ours writes turns as the base model's own chat template does.",
    "split_thinking": "Ours reads reasoning as docs/formats.md says.",
    "conversation": "Ours writes turns as the base model's own chat template does.",
    "skip": "Theirs leaves the first rows out; ours uses all.",
    "input_transform": "Ours changes no rows.",
}
DEFAULTS = {
    "train_on_eos": "turn",
    "train_on_eot": "turn",
    "roles_to_train": ["assistant"],
    "chat_template": "tokenizer_default",
}


@dataclass(frozen=True)
class Place:
    """Where the paths of a YAML are looked for."""

    root: Path
    file: Path
    source: str


def data_set(entry: Any, rl: str, place: Place, *, is_test: bool = False) -> tuple[DataSet, list[tuple[str, str]]]:
    """Return one entry of `datasets` as a data set, and (theirs, effect) of what is lost.

    NotTakenOver if ours cannot read it.
    """
    if isinstance(entry, str):
        entry = {"path": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise NotTakenOver(f"The entry {describe(entry)} has no `path`. Name the file or the hub id.")
    data = DataSet(
        _name(entry), place.source, "", line=f"path: {describe(entry['path'])}, type: {describe(entry.get('type'))}"
    )
    _find(data, entry, place)
    if rl == "dpo":
        set_pairs(data, entry)
    elif rl == "kto":
        set_thumbs(data, entry)
    else:
        _set_format(data, entry)
    data.split = "test" if is_test else None
    return data, _lost(data, entry)


def pretraining_set(entry: Any, place: Place) -> DataSet:
    """Return an entry of `pretraining_dataset` as a data set of raw text."""
    entry = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise NotTakenOver(f"The entry {describe(entry)} has no `path`. Name the file or the hub id.")
    data = DataSet(_name(entry), place.source, "text", line=f"pretraining_dataset: {describe(entry['path'])}")
    _find(data, entry, place)
    data.columns = {str(entry.get("text_column") or "text"): "text"}
    return data


def _name(entry: dict[str, Any]) -> str:
    path = str(entry["path"]).rstrip("/")
    files = entry.get("data_files")
    if path in ("json", "csv", "parquet", "text", "arrow") and files:
        path = str(files[0] if isinstance(files, list) else files)
    name = path.rpartition("/")[2]
    return stem_of(name) if suffix_of(Path(name)) else name


def _find(data: DataSet, entry: dict[str, Any], place: Place) -> None:
    """Set the files or the remote source. NotTakenOver for a path that is nowhere."""
    path, files = str(entry["path"]), entry.get("data_files")
    names = [str(name) for name in (files if isinstance(files, list) else [files])] if files else []
    bases = (place.root, place.file.parent)
    local = inside(place.root, *(base / path for base in bases))
    if local is not None and names and local.is_dir():
        data.paths = [found for name in names if (found := inside(place.root, local / name)) is not None]
    elif local is not None:
        data.paths = data_files_of(local)
    elif names and all(inside(place.root, *(base / name for base in bases)) for name in names):
        data.paths = [inside(place.root, *(base / name for base in bases)) or Path(name) for name in names]
    if data.paths:
        return
    if local is not None:
        raise NotTakenOver(f"The folder {path} has no data files that it names. Put them there and import again.")
    if any((base / path).exists() for base in bases):
        raise NotTakenOver(f"{path} is outside the imported folder. Import the folder that contains it.")
    revision, split, subset = (str(entry[key]) if entry.get(key) else None for key in ("revision", "split", "name"))
    if "://" in path:
        data.remote = Remote(path, revision)
    elif _may_be_hub_id(path):
        part = f"/{names[0]}" if len(names) == 1 and "*" not in names[0] else ""
        note = f"Theirs reads {', '.join(names)} of it; ours all." if names and not part else ""
        data.remote = Remote(f"hf://datasets/{path}{part}", revision, split, subset, note)
    else:
        raise NotTakenOver(f"{path} is not there. Put it there and import again, or copy it into data/raw.")


def _may_be_hub_id(path: str) -> bool:
    return path.count("/") <= 1 and not path.startswith((".", "/", "~")) and suffix_of(Path(path)) is None


def _set_format(data: DataSet, entry: dict[str, Any]) -> None:
    kind = entry.get("type")
    if isinstance(kind, dict):
        _set_columns_of_user(data, kind)
        return
    if kind is None:
        raise NotTakenOver("It has no `type`, so that theirs expects rows of token ids. Name the type of its rows.")
    base = str(kind).partition(":")[0].removesuffix(".load")
    if base == "completion":
        data.data_format = "text"
        data.columns = {str(entry.get("field") or "text"): "text"}
    elif base in ALPACA_TYPES:
        data.data_format = "alpaca"
        data.columns = dict(ALPACA_TYPES[base])
        _drop_unread(data, ("input", "system", "history"))
    elif base in TURN_TYPES or base.startswith("sharegpt"):
        _set_turns(data, entry, base)
    else:
        raise NotTakenOver(
            f"The type {kind!r} builds its prompt in its own way. Convert the rows to alpaca or to turns."
        )


def _drop_unread(data: DataSet, names: Iterable[str]) -> None:
    unread = [name for name in names if name not in data.columns and name not in data.columns.values()]
    data.edits += [without(name, f"a type without {name}") for name in unread]


def _set_columns_of_user(data: DataSet, kind: dict[str, Any]) -> None:
    """Set the columns of a type that the user defines."""
    default = {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    }
    data.data_format = "alpaca"
    data.columns = {str(kind.get(key) or name): name for key, name in default.items()}
    _drop_unread(data, ("history",))


def _set_turns(data: DataSet, entry: dict[str, Any], base: str) -> None:
    old = base.startswith("sharegpt") or base == "pygmalion"
    messages = str(entry.get("field_messages") or ("conversations" if old else "messages"))
    keys = turn_keys(entry)
    plain = all(keys.get(ours, ours) == ours for ours in ("role", "content"))
    data.data_format = "chat" if messages == "messages" and plain and not old else "sharegpt"
    if data.data_format == "sharegpt":
        data.columns[messages] = "conversations"
    tools = str(entry.get("field_tools") or "tools")
    data.columns[tools] = "tools"
    map_turn_keys(data, entry, keys)
    data.roles = roles_of(entry, has_role_key=keys.get("role", "from" if old else "role") == "role")
    data.edits.append(parsed_texts(messages, tools))
    data.edits.append(without("system", "a type without system"))
    if flag := entry.get("message_field_training"):
        data.edits.append(turn_weights(messages, str(flag)))


def _lost(data: DataSet, entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (theirs, effect) of the keys of an entry that have no counterpart, or whose effect differs."""
    theirs = TheirSettings(entry, data.source)
    lost = []
    for key, effect in LOST.items():
        value = theirs.take(key)
        if value is not None and value is not False and value != DEFAULTS.get(key):
            lost.append((f"{data.name}: {theirs.say(key)}", effect))
    kind = entry.get("type")
    if isinstance(kind, dict):
        names = (
            *("format", "no_input_format", "system_format", "system_prompt"),
            *("prompt_format", "chosen_format", "rejected_format", "completion_format"),
        )
        if changed := [name for name in names if kind.get(name)]:
            effect = "Theirs writes prompts in a form of its own; ours as turns of the base model's chat template."
            lost.append((f"{data.name}: {', '.join(changed)}", effect))
    if data.paths and entry.get("split") not in (None, "train"):
        lost.append((f"{data.name}: {theirs.say('split')}", "Theirs reads this part of the file; ours all rows."))
    lost += [(f"{data.name}: {text}", effect) for text, effect in lost_of_turns(entry)]
    theirs.present(KNOWN_KEYS)
    lost += [(f"{data.name}: {key}", "This key is unknown to the import.") for key in theirs.unread()]
    return lost


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
