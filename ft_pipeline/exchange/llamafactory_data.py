"""LLaMA-Factory's dataset_info.json → data files with sidecars."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.exchange.data_files import DataSet, data_files_of, inside
from ft_pipeline.exchange.remote_data import Remote
from ft_pipeline.exchange.row_edits import joined_prompt, pair_with_context, without
from ft_pipeline.exchange.their_settings import NotTakenOver, describe

COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "messages": "conversations",
}
"""The columns that they read if `columns` is not given. If it is given, all that it does not name are none."""
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""The tags that they read if `tags` is not given. If it is given, all that it does not name are none."""
TARGET_ROLES = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "tool",
    "function_tag": "call",
}
KNOWN_KEYS = frozenset({"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}) | {
    *("formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags", "file_sha1")
}
OURS_IN_ALPACA = ("input", "system", "history")
"""Columns that an alpaca row may have here, and that are read only if they are named there."""
OURS_IN_TURNS = ("system", "tools", "functions")
_MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class Info:
    """One entry of dataset_info.json."""

    name: str
    entry: dict[str, Any]
    folder: Path
    """The folder of dataset_info.json, which file names are relative to."""
    root: Path
    """The folder that is imported. Files outside it are not read."""
    source: str
    columns: dict[str, str] = field(init=False)
    """Their role of a column → the column's name, without those that are none."""
    tags: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        for key, defaults in (("columns", COLUMNS), ("tags", TAGS)):
            given = self.entry.get(key)
            values = given if isinstance(given, dict) else defaults
            object.__setattr__(self, key, {name: str(value) for name, value in values.items() if value})

    @property
    def line(self) -> str:
        return f"{self.name}: {describe(_place(self.entry))}"


def _place(entry: dict[str, Any]) -> Any:
    keys = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
    return next((entry[key] for key in keys if entry.get(key)), "no place")


def data_set(info: Info, stage: str, *, is_test: bool = False) -> DataSet:
    """Return a data set as a stage (sft, dpo, kto, pt) reads it. NotTakenOver if ours cannot read it."""
    ranking = bool(info.entry.get("ranking"))
    if ranking != (stage == "dpo"):
        want = "`ranking: true`" if stage == "dpo" else "no `ranking`"
        raise NotTakenOver(f"The stage {stage} reads only data sets with {want}, in theirs too. Use another data set.")
    if media := [name for name in _MEDIA if name in info.columns]:
        raise NotTakenOver(f"Its rows have {', '.join(media)}, and ours are text. Leave them out, or use another one.")
    has_thumbs = "kto_tag" in info.columns
    if has_thumbs and stage != "kto":
        raise NotTakenOver("Its rows are labelled one by one (`kto_tag`). Use `stage: kto`, or keep the good ones.")
    if stage == "kto" and not has_thumbs:
        raise NotTakenOver("The stage kto reads only data sets that name a `kto_tag`. Use another data set.")
    formatting = str(info.entry.get("formatting") or "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise NotTakenOver(f"Its formatting is {formatting!r}. Use alpaca, sharegpt or openai.")
    if stage == "pt":
        data = _texts(info, formatting)
    elif formatting == "alpaca":
        data = _alpaca_pairs(info) if ranking else _alpaca_thumbs(info) if has_thumbs else _alpaca(info)
    else:
        data = _turns(info, formatting, ranking)
    data.split = "test" if is_test else None
    data.limit = _limit(info)
    if data.limit is not None:
        data.notes.append(
            (f"num_samples: {data.limit}", "Theirs draws the rows at random; the copy has the first ones.")
        )
    _find(data, info)
    return data


def _limit(info: Info) -> int | None:
    samples = info.entry.get("num_samples")
    return samples if isinstance(samples, int) and not isinstance(samples, bool) and samples > 0 else None


def _new(info: Info, data_format: str) -> DataSet:
    return DataSet(info.name, info.source, data_format, line=info.line)


def _texts(info: Info, formatting: str) -> DataSet:
    if formatting != "alpaca" or "prompt" not in info.columns:
        raise NotTakenOver("The stage pt reads the column `prompt` of an alpaca data set. Name it in `columns`.")
    data = _new(info, "text")
    data.columns = {info.columns["prompt"]: "text"}
    return data


def _alpaca(info: Info) -> DataSet:
    if "response" not in info.columns:
        raise NotTakenOver("It names no `response`, so that only the stage pt can read it. Name the answers' column.")
    data = _new(info, "alpaca")
    ours = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
    data.columns = {info.columns[theirs]: column for theirs, column in ours.items() if theirs in info.columns}
    unread = [name for name in OURS_IN_ALPACA if name not in data.columns and name not in data.columns.values()]
    data.edits += [without(name, f"no column {name}") for name in unread]
    return data


def _alpaca_pairs(info: Info) -> DataSet:
    chosen, rejected, prompt = (info.columns.get(name) for name in ("chosen", "rejected", "prompt"))
    if not (chosen and rejected and prompt):
        raise NotTakenOver("It does not name `prompt`, `chosen` and `rejected` in `columns`. Add them.")
    data = _new(info, "preferences")
    data.columns = {prompt: "prompt", chosen: "chosen", rejected: "rejected"}
    if query := info.columns.get("query"):
        data.edits.append(joined_prompt(prompt, query))
    if {"system", "history"} & info.columns.keys():
        context = pair_with_context(prompt, chosen, rejected, info.columns.get("system"), info.columns.get("history"))
        data.edits.append(context)
    return data


def _alpaca_thumbs(info: Info) -> DataSet:
    prompt, response = info.columns.get("prompt"), info.columns.get("response")
    if not (prompt and response):
        raise NotTakenOver("It does not name `prompt` and `response` in `columns`. Add them.")
    if "history" in info.columns:
        raise NotTakenOver("Its rows have a `history`. Convert them to turns (`formatting: sharegpt`).")
    data = _new(info, "feedback")
    data.columns = {prompt: "prompt", response: "completion", info.columns["kto_tag"]: "label"}
    if query := info.columns.get("query"):
        data.edits.append(joined_prompt(prompt, query))
    if system := info.columns.get("system"):
        data.columns[system] = "system"
    return data


def _turns(info: Info, formatting: str, ranking: bool) -> DataSet:
    messages = info.columns.get("messages")
    if messages is None:
        raise NotTakenOver("Its `columns` names no `messages`, so that theirs reads no turns. Add it.")
    data = _new(info, "preferences" if ranking else "chat" if formatting == "openai" else "sharegpt")
    if ranking:
        chosen, rejected = info.columns.get("chosen"), info.columns.get("rejected")
        if not (chosen and rejected):
            raise NotTakenOver("It does not name `chosen` and `rejected` in `columns`. Add them.")
        data.columns = {messages: "prompt", chosen: "chosen", rejected: "rejected"}
    elif not (data.data_format == "chat" and messages == "messages"):
        data.columns = {messages: "conversations"}
        data.data_format = "sharegpt"
    if kto_tag := info.columns.get("kto_tag"):
        data.data_format = "feedback"
        data.columns[kto_tag] = "label"
    for name in ("system", "tools"):
        if name in info.columns:
            data.columns[info.columns[name]] = name
    unread = [name for name in OURS_IN_TURNS if name not in data.columns and name not in data.columns.values()]
    data.edits += [without(name, f"no column {name}") for name in unread]
    for tag, ours, known_too in (("role_tag", "from", "role"), ("content_tag", "value", "content")):
        key = info.tags.get(tag)
        if key and key not in (ours, known_too):
            data.columns[key] = ours
    known = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
    if info.tags.get("role_tag") == "role":
        known |= {"tool": "tool"}
    _note_what_differs(data, info, formatting)
    for tag, role in TARGET_ROLES.items():
        speaker = info.tags.get(tag)
        if speaker and known.get(speaker) != role:
            data.roles[speaker] = role
    return data


def _note_what_differs(data: DataSet, info: Info, formatting: str) -> None:
    if isinstance(info.entry.get("tags"), dict) and "system_tag" not in info.tags:
        effect = "Theirs skips rows with a system turn, since `tags` does not name it; ours reads them."
        data.notes.append(("no system_tag", effect))
    if formatting == "openai":
        effect = 'Theirs writes "detailed thinking off" into the system prompt of rows without tools; ours does not.'
        data.notes.append(("formatting: openai", effect))


def _find(data: DataSet, info: Info) -> None:
    """Set the files or the remote source. NotTakenOver if there is neither."""
    entry = info.entry
    note = f"Theirs reads the folder {entry['folder']} of it; ours all." if entry.get("folder") else ""
    split, subset = (str(entry[key]) if entry.get(key) else None for key in ("split", "subset"))
    if entry.get("hf_hub_url"):
        data.remote = Remote(f"hf://datasets/{entry['hf_hub_url']}", None, split, subset, note)
        return
    for key, hub in (("ms_hub_url", "ModelScope"), ("om_hub_url", "OpenMind")):
        if entry.get(key):
            raise NotTakenOver(
                f"It is on {hub} ({describe(entry[key])}). Download it, and put it into data/raw/{data.data_format}."
            )
    if entry.get("script_url"):
        raise NotTakenOver(
            f"It is made by a script ({describe(entry['script_url'])}), which is not run. Write its rows to a file."
        )
    if entry.get("cloud_file_name"):
        data.remote = Remote(str(entry["cloud_file_name"]), note=note)
        return
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise NotTakenOver("It names no file and no hub. Add `file_name`.")
    path = info.folder / name
    found = inside(info.root, path)
    if found is None:
        where = "outside the imported folder" if path.exists() else "not there"
        raise NotTakenOver(
            f"Its file {name} is {where}. Put it there and import again, or copy it into data/raw/{data.data_format}."
        )
    data.paths = data_files_of(found)
    if not data.paths:
        raise NotTakenOver(f"Its folder {name} has no data files. Put them there and import again.")
