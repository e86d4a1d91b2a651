"""Find the GGUF files of a model in the store, with what each of them costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.result_records import GgufCosts
from ft_pipeline.gguf.gate import gate_failures
from ft_pipeline.gguf.index import INDEX
from ft_pipeline.gguf.settings import DEFAULT_GGUF_TYPE
from ft_pipeline.release.intact import require_intact_artifact
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


@dataclass(frozen=True)
class ScoredFiles:
    """The GGUF files of a merged model, and their scores."""

    files: Artifact
    scores: Artifact

    def path(self, type_name: str) -> Path:
        """Return the file of a type."""
        return self.files.path / self.entry(type_name)["file"]

    def entry(self, type_name: str) -> Mapping[str, Any]:
        """Return what gguf.json says of a type."""
        entry: Mapping[str, Any] = self.files.document(INDEX)["files"][type_name]
        return entry

    def costs(self, type_name: str) -> GgufCosts:
        """Return what a type costs against the merged model."""
        return GgufCosts.model_validate(self.scores.summary["costs"][type_name])

    def failures(self, type_name: str, limits: Mapping[str, float]) -> list[str]:
        """Return what a type fails at the gate, as clauses. limits: GgufLimits, which may have changed since."""
        summary = self.scores.summary
        return gate_failures(summary["costs"][type_name], summary["broken_rails"][type_name], limits)


def find_gguf(store: ArtifactStore, model: ModelReference, quantization: str | None) -> Path:
    """Return the GGUF file of a model, verified.

    quantization: its type; None: the only one that was made, or q8_0. Raises UserError if there is none.
    """
    made = [artifact for artifact in reversed(store.all("gguf")) if _is_of(artifact, model)]
    types = list(dict.fromkeys(name for artifact in made for name in artifact.spec["config"]["types"]))
    wanted = quantization or (types[0] if len(types) == 1 else DEFAULT_GGUF_TYPE)
    match = next((artifact for artifact in made if wanted in artifact.spec["config"]["types"]), None)
    if match is None:
        raise UserError(
            f"The store has no GGUF file of {model.row} of the type {wanted}. Run `ft export {_name(model)} DIR "
            f"--format gguf --quantize {wanted}` first."
        )
    verified = store.require(*match.reference)
    require_intact_artifact(store, verified)
    return verified.path / verified.document(INDEX)["files"][wanted]["file"]


def _is_of(made: Artifact, model: ModelReference) -> bool:
    reference = made.inputs.get("merged_model")
    return reference is not None and reference[1] == model.fingerprints.get("merged_model")


def _name(model: ModelReference) -> str:
    return model.experiment if model.experiment and model.record is None else model.name
