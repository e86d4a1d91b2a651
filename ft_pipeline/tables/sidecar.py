"""The YAML beside a file (`support.csv` → `support.yaml`): foreign columns and roles, and what is tolerated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ft_pipeline.tables.codes import ALLOWABLE, ROW_CODES, Refused
from ft_pipeline.tables.parsing import shorten

TARGET_COLUMNS = frozenset(
    {"instruction", "input", "output", "system", "history", "conversations", "text", "prompt", "chosen", "rejected"}
    | {"from", "value", "reasoning_content"}
)
"""What `columns` may map to; `from`, `value` and `reasoning_content` are the keys of a turn."""
MAX_BYTES = 1 << 20


class Sidecar(BaseModel):
    """How one raw file is to be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, str] = Field(default_factory=dict)
    """Their column (or turn key) → ours: `{response: output}`."""
    roles: dict[str, Literal["human", "gpt", "system", "tool"]] = Field(default_factory=dict)
    """Their role → ours: `{Agent: gpt, observation: tool}`. What is mapped to `tool` is kept and never trained."""
    max_quarantined: float | None = Field(default=None, ge=0, le=1)
    """The file's own ceiling on the quarantined share; the file is then judged alone."""
    allow: frozenset[str] = frozenset()
    """Codes that do not keep a row of this file from being used."""
    split: Literal["test"] | None = None
    """`test`: a golden test file, all of it test rows, never split again."""

    @model_validator(mode="before")
    @classmethod
    def _columns_either_way(cls, values: Any) -> Any:
        columns = values.get("columns") if isinstance(values, Mapping) else None
        if isinstance(columns, Mapping) and all(isinstance(name, str) for name in columns.values()):
            turned = columns.keys() <= TARGET_COLUMNS and not set(columns.values()) <= TARGET_COLUMNS
            if turned:  # {output: response}, the direction of LLaMA-Factory's dataset_info.json
                return {**values, "columns": {theirs: ours for ours, theirs in columns.items()}}
        return values

    @field_validator("columns")
    @classmethod
    def _targets_exist(cls, columns: dict[str, str]) -> dict[str, str]:
        for theirs, ours in columns.items():
            if ours not in TARGET_COLUMNS:
                raise ValueError(
                    f"{theirs!r} is mapped to {ours!r}; map it to one of {', '.join(sorted(TARGET_COLUMNS))}"
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


def read_sidecar(data_file: Path, data_dir: Path) -> dict[str, Any] | None:
    """The mapping in the YAML beside `data_file`, or None. Refused if it leads out of `data_dir` or is not YAML."""
    path = next((data_file.with_suffix(end) for end in (".yaml", ".yml") if data_file.with_suffix(end).exists()), None)
    if path is None or path == data_file:
        return None
    if not path.resolve().is_relative_to(data_dir.resolve()):
        raise Refused(
            "path_outside_data_dir", f"the sidecar {path.name} leads out of the data folder; copy the file into it"
        )
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise Refused("unknown_format", f"the sidecar {path.name} is no YAML file of at most 1 MiB")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise Refused("unknown_format", f"the sidecar {path.name} is not valid YAML{where}") from None
    except (UnicodeDecodeError, RecursionError):
        raise Refused("unknown_format", f"the sidecar {path.name} is not a YAML file in UTF-8") from None
    if document is None:
        return None
    if not isinstance(document, dict):
        raise Refused("unknown_format", f"the sidecar {path.name} must hold `key: value` lines")
    return document


def parse_sidecar(document: Mapping[str, Any] | None) -> Sidecar:
    """The sidecar's settings, checked. Refused (code unknown_format) with the key that is wrong."""
    if not document:
        return PLAIN
    try:
        return Sidecar.model_validate(dict(document))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(Sidecar.model_fields)
            raise Refused("unknown_format", f"sidecar: unknown key {shorten(key)}; known keys: {known}") from None
        raise Refused("unknown_format", f"sidecar: {key}: {fault['msg']}") from None


def rename(value: dict[str, Any], sidecar: Sidecar) -> dict[str, Any]:
    """A row (or a turn) under our names. A mapped column wins over one that bore the name already."""
    mapped = {ours: value[theirs] for theirs, ours in sidecar.columns.items() if theirs in value}
    kept = {name: item for name, item in value.items() if name not in sidecar.columns and name not in mapped}
    return {**kept, **mapped}
