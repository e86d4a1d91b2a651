"""The folder of evaluation.include_path: what is in it, and a copy of that in the store."""

import shutil
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.store.hashing import sha256_of_file


def files_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder of tasks, by relative path; nothing of Python's own caches."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def keep_files(job: Job) -> dict[str, Any]:
    """The worker of `evaluation_tasks`: a copy of evaluation.include_path, so that a score can be walked back to it.

    config: files (relative path → sha256). handling: folder. UserError where a file has changed meanwhile.
    """
    for name, sha256 in job.config["files"].items():
        target = job.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(job.handling["folder"]) / name, target)
        if sha256_of_file(target) != sha256:
            raise UserError(f"evaluation.include_path: {name} changed while it was read; run again")
    return {"files": len(job.config["files"])}
