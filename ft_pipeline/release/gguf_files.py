"""The GGUF file of a model in the store."""

from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore

DEFAULT_TYPE = "q8_0"


def find_gguf(store: ArtifactStore, model: ModelReference, quantization: str | None) -> Path:
    """Return the verified GGUF file of a merged model. Raises UserError if there is none.

    quantization: a type such as `q4_k_m`; None: the only type there is, else `q8_0`.
    """
    merged = model.fingerprints.get("merged_model") if model.kind == "merged" else None
    files: dict[str, Path] = {}
    for artifact in store.all("gguf"):
        if artifact.inputs.get("merged_model", ("", ""))[1] == merged:
            verified = store.require("gguf", artifact.fingerprint)
            files |= {path.stem.rpartition("-")[2].lower(): path for path in verified.path.glob("*.gguf")}
    wanted = (quantization or (next(iter(files)) if len(files) == 1 else DEFAULT_TYPE)).lower()
    if wanted in files:
        return files[wanted]
    name = model.experiment or model.name
    raise UserError(
        f"{model.name!r} has no GGUF file of the type {wanted}. Run `ft export {name} DIR --format gguf --quantize "
        f"{wanted}` first."
    )
