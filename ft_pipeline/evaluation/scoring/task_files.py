"""Hash the user's lm-eval task files (evaluation.include_path), and copy them into the store."""

import shutil
from pathlib import Path
from typing import Any

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
