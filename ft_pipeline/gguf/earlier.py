"""What was measured of a GGUF file before, so that another type does not cost the time of all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.evaluation.scoring.scorer import result_path
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.gguf.index import INDEX
from ft_pipeline.job import Job

MEASURES = "gguf.parquet"
"""The file with a record per type and test answer."""


def measured_path(job: Job, type_name: str) -> Path:
    """Return where the records of a type are kept until the job has measured all of them."""
    return job.work / f"measured_{type_name}.json"


def take_over(job: Job, tested_models: Mapping[str, ModelUnderTest]) -> None:
    """Write the results of earlier scores to the job's work folder, for the files that have the same bytes.

    job.handling["earlier"]: the folders of these `scores`, and of the `gguf` files that they are of; they differ from
    this job in the set of files only. None or absent: there are none. tested_models: by type.
    """
    earlier = job.handling.get("earlier")
    if not earlier or not Path(earlier["scores"]).is_dir():
        return
    scores, digests = Path(earlier["scores"]), _digests(Path(earlier["gguf"]))
    for type_name, digest in _digests(job.inputs["gguf"]).items():
        if digests.get(type_name) == digest:
            _write_results(job, scores, type_name, tested_models[type_name].name)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a gguf artifact, by type."""
    files = json.loads((folder / INDEX).read_text(encoding="utf-8"))["files"]
    return {type_name: entry["sha256"] for type_name, entry in files.items()}


def _write_results(job: Job, scores: Path, type_name: str, name: str) -> None:
    document = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    row = next(row for row in document["rows"] if row["name"] == name)
    result = {
        "row": {key: value for key, value in row.items() if key != "gguf"},
        "samples": [_without_name(record) for record in _records(scores / "samples.parquet", "name", name)],
        **{key: [] for key in ("general", "tasks", "validation")},
        "task_metrics": {},
    }
    result_path(job, name).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    records = _records(scores / MEASURES, "type", type_name)
    measured_path(job, type_name).write_text(json.dumps(records), encoding="utf-8")


def _records(path: Path, column: str, value: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = pq.read_table(path, filters=[(column, "=", value)]).to_pylist()
    return records


def _without_name(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "name"}
