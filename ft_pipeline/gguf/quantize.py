"""Quantize a GGUF file by llama.cpp's library, and say which types its matrices got."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.library import last_message, load_library, thread_count


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
