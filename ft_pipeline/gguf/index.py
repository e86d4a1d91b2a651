"""The files of a gguf artifact, by name."""

INDEX = "gguf.json"
"""Lists the GGUF files: `name` of the model, and under `files`, by type: file, bytes, sha256, matrices, matrix_types,
fallback (matrices of another type than was asked for) and note."""


def file_name(name: str, type_name: str) -> str:
    """Return the name of a model's GGUF file of a type."""
    return f"{name}-{type_name}.gguf"
