"""The user's lm-eval task files (evaluation.include_path): their hashes, their copy in the store, their documents."""

import csv
import gzip
import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.settings.bounded_yaml import BoundedLoader
from ft_pipeline.store.hashing import sha256_of_file

MIN_COMMON_DOCUMENTS = 3
"""A text that this many documents share is a part of the prompt, and no content of a document."""
MAX_CELL_CHARS = 64 << 20


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
    """Return (texts in the documents of these tasks, names of the tasks whose documents cannot all be read here).

    folder: task files as lm-eval reads them. A document is a row of a task's local data files. Texts that several
    documents have (labels, instructions) are left out.
    """
    configs = [_read_task(path) for path in sorted(folder.rglob("*.yaml"))]
    tasks = {config["task"]: config for config in configs if isinstance(config.get("task"), str)}
    counts: Counter[str] = Counter()
    unread = []
    for name in _without_groups(names, configs):
        paths = _data_files(folder, tasks.get(name, {}))
        try:
            for document in itertools.chain.from_iterable(map(_read_documents, paths)):
                counts.update(dict.fromkeys(_strings_in(document), 1))
        except (OSError, ValueError, csv.Error, pa.ArrowException):
            paths = []
        if not paths:
            unread.append(name)
    return [text for text, count in counts.items() if count < MIN_COMMON_DOCUMENTS], unread


def _data_files(folder: Path, task: Mapping[str, Any]) -> list[Path]:
    """Return the data files of a task in the folder. None if one of its patterns leads elsewhere or to nothing."""
    kwargs = task.get("dataset_kwargs")
    patterns = list(_strings_in(kwargs.get("data_files"))) if isinstance(kwargs, Mapping) else []
    if not all(pattern and not Path(pattern).is_absolute() for pattern in patterns):
        return []
    found = [[path for path in sorted(folder.glob(pattern)) if path.is_file()] for pattern in patterns]
    return list(itertools.chain.from_iterable(found)) if all(found) else []


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


class _TaskLoader(BoundedLoader):
    """Reads a task file without running the functions that it names (`!function module.name`)."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _read_task(path: Path, including: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """Return a task file with the files that it includes. A file that is no YAML mapping is empty here: lm-eval reports
    it."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _TaskLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return {}
    if not isinstance(config, dict):
        return {}
    including |= {path.resolve()}
    included = [name for name in _strings_in(config.get("include")) if (path.parent / name).resolve() not in including]
    for name in reversed(included):
        config = {**_read_task(path.parent / name, including), **config}
    return config


def _read_documents(path: Path) -> list[Any]:
    """Return the rows of a JSONL, JSON, CSV, TSV or Parquet file, which may be compressed with gzip.

    Raises ValueError for a line that is not JSON.
    """
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        text = file.read().decode("utf-8-sig", errors="replace")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(MAX_CELL_CHARS)
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ","))
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


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
