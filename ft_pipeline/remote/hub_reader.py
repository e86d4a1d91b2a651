"""Reads one split of a data set of the hub with `datasets` and writes it as Parquet: a process of its own.

The job comes as JSON on the standard input. An error is the last line of the standard error.
"""

import json
import os
import sys
from typing import Any

from ft_pipeline.sources.transfer import MAX_DOWNLOAD_BYTES


def main() -> None:
    """Do the job, or end with one line of error."""
    job = json.load(sys.stdin)
    try:
        _write_rows(job)
    except Exception as error:  # whatever the library raises becomes one line for the user
        sys.stderr.write(f"\n{' '.join(str(error).split())[:500] or type(error).__name__}\n")
        sys.exit(1)


def _write_rows(job: dict[str, Any]) -> None:
    import datasets

    datasets.disable_progress_bars()
    token = os.environ.get("HF_TOKEN") or False
    options = {"name": job["subset"], "revision": job["commit"], "token": token, "cache_dir": job["cache"]}
    builder = datasets.load_dataset_builder(job["repository"], **options)
    if (builder.info.download_size or 0) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"the data set is larger than {MAX_DOWNLOAD_BYTES >> 30} GiB; name one of its files")
    split = job["split"] or _only_split(job["repository"], options)
    datasets.load_dataset(job["repository"], split=split, **options).to_parquet(job["rows"])


def _only_split(repository: str, options: dict[str, Any]) -> str:
    """Return the split of a data set that has one. ValueError otherwise."""
    import datasets

    names = datasets.get_dataset_split_names(
        repository, options["name"], revision=options["revision"], token=options["token"]
    )
    if len(names) != 1:
        raise ValueError(f"the data set has the splits {', '.join(names)}; name one of them: `split: {names[0]}`")
    return str(names[0])


if __name__ == "__main__":
    main()
