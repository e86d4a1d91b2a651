"""The worker for `gguf`: a merged model as GGUF files of several types."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.convert import convert
from ft_pipeline.gguf.index import INDEX, file_name
from ft_pipeline.gguf.library import last_message, load_library, thread_count
from ft_pipeline.job import Job
from ft_pipeline.store.hashing import sha256_of_file


@dataclass(frozen=True)
class Matrices:
    """The types of a file's matrices."""

    types: dict[str, int]
    """Number of matrices by type, the most frequent first."""
    fallback: int
    """Number of matrices that got another type than was asked for, because it does not take their row length."""

    @property
    def total(self) -> int:
        return sum(self.types.values())

    def describe(self) -> str | None:
        """Return a sentence about matrices of other types; None if there are none."""
        if not self.fallback:
            return None
        types = ", ".join(f"{count} {name}" for name, count in self.types.items())
        which = (
            "No matrix has" if self.fallback == self.total else f"{self.fallback} of {self.total} matrices do not have"
        )
        return f"{which} the type that was asked for, which does not take their row length: {types}."


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


def quantize(source: Path, target: Path, type_name: str) -> None:
    """Write `target`, a GGUF file of a type (gguf/settings.py), from one in 32 bit.

    Raises UserError if llama.cpp fails.
    """
    ffi, lib = load_library()
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = getattr(lib, f"LLAMA_FTYPE_{'ALL' if type_name == 'f32' else 'MOSTLY'}_{type_name.upper()}")
    parameters.nthread = thread_count()
    address = ffi.new("llama_model_quantize_params *", parameters)
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), address):
        target.unlink(missing_ok=True)
        raise UserError(
            f"llama.cpp cannot quantize the model to {type_name}: {last_message()}. Choose another type, such as q8_0."
        )


def read_matrices(path: Path, type_name: str) -> Matrices:
    """Return the types of the matrices of a file that was quantized to a type."""
    from gguf import GGUFReader

    tensors = [tensor for tensor in GGUFReader(path).tensors if sum(size > 1 for size in tensor.shape) > 1]
    counts = Counter(tensor.tensor_type.name for tensor in tensors)
    return Matrices(
        dict(counts.most_common()), sum(not _is_of(tensor.tensor_type.name, type_name) for tensor in tensors)
    )


def _is_of(tensor_type: str, type_name: str) -> bool:
    """Whether a matrix has one of the types that llama.cpp mixes in a file of a type. It never quantizes some, such as
    the router of experts."""
    if tensor_type == "F32":
        return True
    if "_k" in type_name:
        return tensor_type.endswith("_K")
    return tensor_type == type_name.upper() or (type_name.startswith(("q4", "q5")) and tensor_type in ("Q6_K", "Q8_0"))
