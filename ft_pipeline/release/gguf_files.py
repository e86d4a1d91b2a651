"""Find the GGUF file of a model in the store."""

from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

INDEX = "gguf.json"
"""The file of the artifact that lists the others."""
DEFAULT_GGUF_TYPE = "q8_0"


def find_gguf(store: ArtifactStore, model: ModelReference, quantization: str | None) -> Path:
    """Return the GGUF file of a model, verified.

    quantization: its type; None: the only one that was made, or q8_0. Raises UserError if there is none.
    """
    made = [artifact for artifact in reversed(store.all("gguf")) if _is_of(artifact, model)]
    types = list(dict.fromkeys(name for artifact in made for name in artifact.spec["config"]["types"]))
    wanted = quantization or (types[0] if len(types) == 1 else DEFAULT_GGUF_TYPE)
    match = next((artifact for artifact in made if wanted in artifact.spec["config"]["types"]), None)
    if match is None:
        name = model.experiment if model.experiment and model.record is None else model.name
        raise UserError(
            f"The store has no GGUF file of {model.row} of the type {wanted}. Run `ft export {name} DIR --format gguf "
            f"--quantize {wanted}` first."
        )
    verified = store.require(*match.reference)
    return verified.path / verified.document(INDEX)["files"][wanted]["file"]


def _is_of(made: Artifact, model: ModelReference) -> bool:
    reference = made.inputs.get("merged_model")
    return reference is not None and reference[1] == model.fingerprints.get("merged_model")
