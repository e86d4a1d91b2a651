"""The user's lm-eval task files (evaluation.include_path): their hashes, their copy in the store, their documents."""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.store.hashing import sha256_of_file


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by relative path, without Python's caches."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def copy_task_files(job: Job) -> dict[str, Any]:
    """The worker for `evaluation_tasks`: copy the task files, so that a score can be traced to them.

    config: files (relative path → sha256). handling: folder. Raises UserError if a file has changed since it was
    hashed.
    """
    for name, sha256 in job.config["files"].items():
        target = job.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(job.handling["folder"]) / name, target)
        if sha256_of_file(target) != sha256:
            raise UserError(f"evaluation.include_path: {name} changed while it was being read. Run again.")
    return {"files": len(job.config["files"])}


def read_task_texts(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (every text in the documents of these tasks, names of the tasks whose documents are not in the folder).

    folder: task files as lm-eval reads them. A document is a row of a task's local data files.
    """
    configs = [_read_task(path) for path in sorted(folder.rglob("*.yaml"))]
    tasks = {config["task"]: config for config in configs if isinstance(config.get("task"), str)}
    texts: dict[str, None] = {}
    absent = []
    for name in _without_groups(names, configs):
        kwargs = tasks.get(name, {}).get("dataset_kwargs") or {}
        patterns = [pattern for pattern in _strings_in(kwargs.get("data_files")) if not Path(pattern).is_absolute()]
        paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        if not paths:
            absent.append(name)
        for path in paths:
            texts |= dict.fromkeys(_strings_in(_read_documents(path)))
    return list(texts), absent


def _without_groups(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names, with each group replaced by its tasks."""
    groups = {
        config["group"]: [entry if isinstance(entry, str) else entry.get("task") for entry in config["task"]]
        for config in configs
        if isinstance(config.get("task"), list) and isinstance(config.get("group"), str)
    }
    tasks: dict[str, None] = {}
    for name in names:
        others = [config for config in configs if config.get("group") != name]
        tasks |= dict.fromkeys(_without_groups(groups[name], others) if name in groups else [name])
    return list(tasks)


class _TaskLoader(yaml.SafeLoader):
    """Reads a task file without running the functions that it names (`!function module.name`)."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _read_task(path: Path) -> dict[str, Any]:
    """Return a task file with the files that it includes. A file that is no YAML mapping is empty here: lm-eval reports
    it."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _TaskLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    if not isinstance(config, dict):
        return {}
    included = config.get("include")
    base_path = path.parent / included if isinstance(included, str) else None
    return {**_read_task(base_path), **config} if base_path and base_path.is_file() and base_path != path else config


def _read_documents(path: Path) -> list[Any]:
    """Return the rows of a JSONL, JSON, CSV or Parquet file; of another file, its text."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    try:
        return [json.loads(text)]
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        return [text]


def _strings_in(value: Any) -> Iterator[str]:
    """Yield every string in a value, except the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings_in(item)
