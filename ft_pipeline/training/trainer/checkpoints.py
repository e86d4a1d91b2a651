"""Checkpoints that are verified before use. A marker file, which is written last, lists each file and its hash."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.pickles import named_like_a_pickle

_MARKER = "complete.json"
_PREFIX = "checkpoint-"


def seal(folder: Path) -> None:
    """Mark a checkpoint as complete. Training never resumes from a checkpoint without this mark."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _MARKER)
    partial = folder / f"{_MARKER}.part"
    partial.write_text(
        json.dumps({path.name: sha256_of_file(path) for path in files if path != partial}), encoding="utf-8"
    )
    partial.replace(folder / _MARKER)


def newest_valid(root: Path) -> Path | None:
    """Return the complete, undamaged checkpoint of the highest step under `root`, or None."""
    for step in reversed(steps_in(root)):
        if _is_valid(folder := checkpoint_folder(root, step)):
            return folder
    return None


def steps_in(root: Path) -> list[int]:
    """Return the steps that have a checkpoint under `root`, complete or not, in ascending order."""
    names = [path.name.removeprefix(_PREFIX) for path in root.glob(f"{_PREFIX}*")]
    return sorted(int(name) for name in names if name.isdigit())


def prune(root: Path, keep: Collection[int]) -> None:
    """Remove the checkpoints under `root`, except those of the steps in `keep`."""
    for step in steps_in(root):
        if step not in keep:
            shutil.rmtree(checkpoint_folder(root, step), ignore_errors=True)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint of an optimizer step."""
    return root / f"{_PREFIX}{step}"


def checkpoint_step(folder: Path) -> int:
    """Return the optimizer step after which a checkpoint was written."""
    return int(folder.name.removeprefix(_PREFIX))


def _is_valid(folder: Path) -> bool:
    """Whether a checkpoint is complete, undamaged and free of pickles."""
    try:
        expected = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        if not expected or any(named_like_a_pickle(name) for name in expected):
            return False  # from an earlier version, which pickled the state
        return all(sha256_of_file(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError):
        return False
