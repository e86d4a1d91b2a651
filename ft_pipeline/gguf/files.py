"""The worker for `gguf`: a merged model as GGUF files of several types."""

import json
from typing import Any

from ft_pipeline.gguf.convert import convert
from ft_pipeline.gguf.index import INDEX, file_name
from ft_pipeline.gguf.quantize import quantize, read_matrices
from ft_pipeline.job import Job
from ft_pipeline.store.hashing import sha256_of_file


def run(job: Job) -> dict[str, Any]:
    """Convert the merged model once, in 32 bit, and quantize it to each type.

    config: name (of the model), types (gguf/settings.py). inputs: merged_model. Writes a file per type and INDEX:
    name, and by type the file, its bytes, SHA-256 and matrices. Raises UserError if llama.cpp cannot do it.
    """
    name, types = job.config["name"], job.config["types"]
    source = job.work / "f32.gguf"
    job.report.log(f"converting {name} to GGUF")
    convert(job.inputs["merged_model"], source, name)
    files = {}
    for number, type_name in enumerate(types, 1):
        target = job.out / file_name(name, type_name)
        quantize(source, target, type_name)
        matrices = read_matrices(target, type_name)
        if note := matrices.describe():
            job.report.log(f"{target.name}: {note}")
        files[type_name] = {
            "file": target.name,
            "bytes": target.stat().st_size,
            "sha256": sha256_of_file(target),
            "matrices": matrices.total,
            "matrix_types": matrices.types,
            "fallback": matrices.fallback,
            "note": matrices.describe(),
        }
        job.report.progress(number, len(types))
    source.unlink()
    document = {"name": name, "files": files}
    (job.out / INDEX).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document
