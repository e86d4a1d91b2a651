"""Sidecar: the YAML for a raw file (`support.csv` → `support.yaml`) that maps columns and roles and allows faults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ft_pipeline.settings.raw_formats import TARGET_COLUMNS
from ft_pipeline.sources.declaration import reading_keys
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.tables.reading.describe import describe_value, shorten
from ft_pipeline.tables.reason_codes import ALLOWABLE, ROW_CODES, Refused

_NAMES_OF_COLUMNS = frozenset({"completion", "label"})
"""Target names that columns of files often have: `{output: completion}` reads the column `completion` as `output`."""
_NAMES_OF_THEIRS = frozenset({"messages", "role", "content"})
"""Target names that a column to be mapped often has: `{messages: completion}` reads the column `messages`."""
MAX_BYTES = 1 << 20
"""Maximum size of a sidecar."""


class Sidecar(BaseModel):
    """Settings for reading one raw file. docs/formats.md shows the docstrings of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = Field(default_factory=dict)
    """Column (or turn key) in the file → our name: `{response: output}`, `{conversation: messages, speaker: role, body:
    content}`."""
    roles: dict[str, Literal["human", "gpt", "system", "tool", "call"]] = Field(default_factory=dict)
    """Role in the file → our role: `{Agent: gpt, function_call: call, observation: tool}`. Turns of `tool` are kept but
    never trained. `call` is the model's turn whose text is a call: JSON with `name` and `arguments`."""
    feedback: tuple[str, ...] = ()
    """Traces of Langfuse: names of the scores that the application's users give, e.g. `[user-feedback]`. Scores of
    other names count as feedback only if people gave them in Langfuse itself."""
    tools: list[dict[str, Any]] | None = None
    """The tools of all rows of this file that declare none, as in OpenAI's `tools`. Few tracers log them."""
    max_quarantined: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Maximum quarantined share of this file, which is then checked separately from its folder."""
    allow: frozenset[str] = frozenset()
    """Reason codes for which no row of this file is set aside."""
    group: str = "group"
    """The column that names groups of rows: a user, a thread, a document. Rows of one name are in one split, in all
    files. Rows without a value stand alone."""
    split: Literal["test"] | None = None
    """`test`: a golden test file. All of its rows are test rows; they are never split again."""

    @model_validator(mode="before")
    @classmethod
    def _columns_either_way(cls, values: Any) -> Any:
        columns = values.get("columns") if isinstance(values, Mapping) else None
        if isinstance(columns, Mapping) and all(isinstance(name, str) for name in columns.values()):
            targets = set(columns.values())
            turned = columns.keys() <= TARGET_COLUMNS and not targets <= TARGET_COLUMNS - _NAMES_OF_COLUMNS
            turned &= not (columns.keys() & _NAMES_OF_THEIRS and targets <= TARGET_COLUMNS)
            if turned:  # {output: response}, the direction of LLaMA-Factory's dataset_info.json
                return {**values, "columns": {source: target for target, source in columns.items()}}
        return values

    @field_validator("max_quarantined", mode="before")
    @classmethod
    def _share_is_a_number(cls, share: Any) -> Any:
        return str(share) if isinstance(share, bool) else share  # pydantic would read true as 1

    @field_validator("columns")
    @classmethod
    def _targets_exist(cls, columns: dict[str, str]) -> dict[str, str]:
        for source, target in columns.items():
            if target not in TARGET_COLUMNS:
                raise ValueError(
                    f"{source!r} is mapped to {target!r}; map it to one of {', '.join(sorted(TARGET_COLUMNS))}"
                )
        if len(set(columns.values())) != len(columns):
            raise ValueError("two columns are mapped to the same name")
        return columns

    @field_validator("allow")
    @classmethod
    def _codes_can_be_allowed(cls, allow: frozenset[str]) -> frozenset[str]:
        for code in sorted(allow - ALLOWABLE):
            why = "such rows cannot be used" if code in ROW_CODES else "there is no such code"
            raise ValueError(f"{code!r} cannot be allowed: {why}; allowed may be {', '.join(sorted(ALLOWABLE))}")
        return allow


PLAIN = Sidecar()
"""The settings of a file without a sidecar."""


def read_sidecar(data_file: Path, data_dir: Path) -> dict[str, Any] | None:
    """Return the mapping in the sidecar of `data_file`, or None if it has no sidecar.

    Raises Refused if the sidecar leads out of `data_dir` or is not YAML.
    """
    stem = stem_of(data_file.name)
    path = data_file.with_name(f"{stem}.yaml")
    if (yml_path := data_file.with_name(f"{stem}.yml")).exists():
        raise Refused("unknown_format", f"a sidecar's name must end in .yaml: rename {yml_path.name}")
    if path == data_file or not (path.exists() or path.is_symlink()):
        return None
    try:
        inside = path.resolve().is_relative_to(data_dir.resolve())
    except (OSError, RuntimeError):
        raise Refused("unknown_format", f"the sidecar {path.name} is a link that leads nowhere; remove it") from None
    if not inside:
        raise Refused(
            "path_outside_data_dir", f"the sidecar {path.name} leads out of the data folder; copy the file into it"
        )
    return load_sidecar(path)


def load_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a YAML file, or None if the file is empty.

    Raises Refused (unknown_format) if it is not a plain mapping.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise Refused("unknown_format", f"the sidecar {path.name} is no YAML file of at most 1 MiB")
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), _PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        why = f": {error.problem}" if isinstance(error, _NotPlain) else ""
        raise Refused("unknown_format", f"the sidecar {path.name} is not valid YAML{where}{why}") from None
    except (UnicodeDecodeError, RecursionError, ValueError):
        raise Refused("unknown_format", f"the sidecar {path.name} is not a plain YAML file in UTF-8") from None
    if document is None:
        return None
    if not isinstance(document, dict):
        raise Refused("unknown_format", f"the sidecar {path.name} must hold `key: value` lines")
    return document


class _NotPlain(yaml.MarkedYAMLError):
    pass


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them can expand to gigabytes) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _NotPlain(None, None, "aliases are not supported; write the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]
        if twice is not None:
            raise _NotPlain(None, None, f"the key {shorten(twice)} stands twice; put both into one", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_sidecar(document: Mapping[str, Any] | None) -> Sidecar:
    """Return the validated settings of a sidecar. Raises Refused (unknown_format) with the key that is wrong."""
    if not document:
        return PLAIN
    try:
        keys = reading_keys(document)
        return Sidecar.model_validate({key: value for key, value in keys.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the file"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(Sidecar.model_fields)
            raise Refused("unknown_format", f"sidecar: unknown key {shorten(key)}; known keys: {known}") from None
        wanted = _WANTED.get(fault["type"])
        message = (
            f"must be {wanted}, is {describe_value(fault['input'])}"
            if wanted
            else fault["msg"].removeprefix("Value error, ")
        )
        raise Refused("unknown_format", f"sidecar: {key}: {message}") from None


_WANTED = {
    "dict_type": "lines of `theirs: ours`",
    "frozen_set_type": "a list of codes, such as [near_duplicate]",
    "string_type": "a text; put quotes around it",
    "float_type": "a number from 0 to 1",
    "float_parsing": "a number from 0 to 1",
    "finite_number": "a number from 0 to 1",
    "less_than_equal": "a number from 0 to 1",
    "greater_than_equal": "a number from 0 to 1",
}
"""pydantic's error type → the expected value."""


def rename(value: dict[str, Any], sidecar: Sidecar) -> dict[str, Any]:
    """Return a row (or a turn) with our names. A mapped column replaces a column that already has the name."""
    mapped = {target: value[source] for source, target in sidecar.columns.items() if source in value}
    kept = {name: item for name, item in value.items() if name not in sidecar.columns and name not in mapped}
    return {**kept, **mapped}
