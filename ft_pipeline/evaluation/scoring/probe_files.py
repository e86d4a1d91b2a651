"""Read the files of `evaluation.probes`. What is wrong in them is found here, before anything is scored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.project import read_jsonl
from ft_pipeline.settings.probes import ProbeSettings
from ft_pipeline.store.hashing import sha256_of_json

PROBES_FILE = "probes.parquet"
"""The file of scores with the answers to the probes."""
Probe = dict[str, str]
"""A question: `query`, and `system` where it has a system prompt of its own."""


def read_probes(settings: Mapping[str, ProbeSettings], resolve_path: Callable[[str], Path]) -> dict[str, list[Probe]]:
    """Return the questions of all probes, by their name in the settings.

    resolve_path: returns the file that the settings name. UserError, with the file and the line, for a file without
    questions, a line without a query, and a question that is there twice.
    """
    return {name: _read(name, entry, resolve_path(entry.file)) for name, entry in settings.items()}


def probe_digests(probes: Mapping[str, list[Probe]]) -> dict[str, str]:
    """Return a hash of the questions of each probe file. Only answers to the same questions are paired."""
    return {name: sha256_of_json(rows) for name, rows in probes.items()}


def _read(name: str, settings: ProbeSettings, path: Path) -> list[Probe]:
    if not path.is_file():
        raise UserError(f"evaluation.probes.{name}: {settings.file} is not a file. Name a JSONL file.")
    probes = [_probe(path.name, number, row) for number, row in enumerate(read_jsonl(path), 1)]
    if not probes:
        raise UserError(f"evaluation.probes.{name}: {settings.file} has no questions. Write one per line, as `query`.")
    seen: dict[tuple[str, str | None], int] = {}
    for number, probe in enumerate(probes, 1):
        first = seen.setdefault((probe["query"], probe.get("system")), number)
        if first != number:
            raise UserError(
                f"{path.name}: question {number} is the same as question {first}. Remove it: an answer counts once."
            )
    return probes


def _probe(file: str, number: int, row: Mapping[str, Any]) -> Probe:
    for key in ("query", "system"):
        value = row.get(key)
        if value is None and key == "system":
            continue
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{file}: question {number} has no text in `{key}`. Write it as a text.")
    unknown = sorted(row.keys() - {"query", "system"})
    if unknown:
        raise UserError(f"{file}: question {number} has the unknown key {unknown[0]!r}. Use `query` and `system`.")
    system = row.get("system")
    return {"query": row["query"].strip(), **({"system": system.strip()} if system else {})}
