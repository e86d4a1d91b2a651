"""The rows of a comparison that can be released, with their artifacts and checks."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.records import Comparison, ComparisonRow, read_comparison
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.release.champion import Candidate, decision_key
from ft_pipeline.release.promotion import gates
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json

Served = dict[str, Any]
"""How to load and prompt a model, which is needed to score or serve it again."""


def key_of(compared: Artifact) -> str:
    """Return the decision key of a comparison artifact."""
    return decision_key(compared.inputs, compared.spec["config"])


def candidates(compared: Artifact, store: ArtifactStore) -> tuple[dict[str, Candidate], dict[str, Served]]:
    """Return the candidates by row name of a comparison artifact, and how to serve them.

    Their checks are as the manifests record them now.
    """
    releasable: dict[str, Candidate] = {}
    served: dict[str, Served] = {}
    for row in read_comparison(compared).rows:
        if row.kind in TUNED:
            scores = store.require(*compared.inputs[f"{row.experiment}/scores"])
            releasable[row.name] = _tuned(row, scores, store)
            served[row.name] = {
                key: scores.spec["config"][key] for key in ("technique", "quantization", "system_prompt")
            }
        elif row.kind == "prompt" and (scored := _scored_prompt(row, compared, store)) is not None:
            releasable[row.name], served[row.name] = scored
    return releasable, served


def row_of(comparison: Comparison, known: Mapping[str, Candidate], released: str) -> str | None:
    """Return the comparison's row of the released model with this fingerprint; None if it has no score there.

    The name is not enough: an experiment that was trained again has a row of the same name.
    """
    same = [name for name, candidate in known.items() if candidate.fingerprint == released]
    if comparison.champion_fingerprint == released:
        same += [row.name for row in comparison.rows if row.kind == "champion"]
    return next(iter(same), None)


def _tuned(row: ComparisonRow, scores: Artifact, store: ArtifactStore) -> Candidate:
    merged = store.require(*scores.inputs["merged_model"])
    audited = store.require(*merged.inputs["training_data"])
    parts: dict[str, str] = {
        key: scores.inputs[key][1] for key in ("base_model", "adapter", "merged_model") if key in scores.inputs
    }
    passed = gates(audited.summary, merged.summary)
    if row.kind == "merged":
        return Candidate(row.name, "merged", row.experiment, merged.fingerprint, parts, passed)
    del passed["merge"]  # what is released was never merged
    return Candidate(row.name, "adapter", row.experiment, parts["adapter"], parts, passed)


def _scored_prompt(
    row: ComparisonRow, compared: Artifact, store: ArtifactStore
) -> tuple[Candidate, dict[str, Any]] | None:
    """Return the candidate of a prompt variant, and the variant.

    None for a variant of another base model (`name@experiment`): the comparison shows it, but it cannot be released.
    """
    baselines = [reference for key, reference in sorted(compared.inputs.items()) if key.endswith("/prompt_baseline")]
    for reference in baselines:
        baseline = store.require(*reference)
        variant = baseline.spec["config"]["prompting"]["variants"].get(row.name)
        if variant is not None:
            parts = {"base_model": baseline.inputs["base_model"][1], "prompt_variant": sha256_of_json(variant)}
            return Candidate(row.name, "prompt", None, sha256_of_json(parts), parts), variant
    return None
