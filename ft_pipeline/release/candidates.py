"""The candidates: the rows of a comparison that can be released, with their artifacts and checks."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.evaluation.comparison.records import Comparison, read_comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.release.champion import Candidate, decision_key
from ft_pipeline.release.decision import check_results
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json

ServingConfig = dict[str, Any]
"""How to load and prompt a model, which is needed to score or serve it again."""


def decision_key_of(comparison_artifact: Artifact) -> str:
    """Return the decision key of a comparison artifact."""
    return decision_key(comparison_artifact.inputs, comparison_artifact.spec["config"])


def find_candidates(
    comparison_artifact: Artifact, store: ArtifactStore
) -> tuple[dict[str, Candidate], dict[str, ServingConfig]]:
    """Return (candidates, how to serve them) of a comparison artifact, both by row name.

    The results of their checks are read from the manifests now.
    """
    candidates: dict[str, Candidate] = {}
    serving: dict[str, ServingConfig] = {}
    for row in read_comparison(comparison_artifact).rows:
        if row.kind in TUNED:
            scores = store.require(*comparison_artifact.inputs[f"{row.experiment}/scores"])
            candidates[row.name] = _tuned_candidate(row, scores, store)
            serving[row.name] = {
                key: scores.spec["config"][key] for key in ("technique", "quantization", "system_prompt")
            }
        elif row.kind == "prompt" and (prompt := _prompt_candidate(row, comparison_artifact, store)) is not None:
            candidates[row.name], serving[row.name] = prompt
    return candidates, serving


def released_row(comparison: Comparison, candidates: Mapping[str, Candidate], fingerprint: str) -> str | None:
    """Return the name of the comparison's row of the released model (its fingerprint); None if it has no score there.

    The name is not enough: an experiment that was trained again has a row of the same name.
    """
    names = [name for name, candidate in candidates.items() if candidate.fingerprint == fingerprint]
    if comparison.champion_fingerprint == fingerprint:
        names += [row.name for row in comparison.rows if row.kind == "champion"]
    return next(iter(names), None)


def _tuned_candidate(row: ComparisonRow, scores: Artifact, store: ArtifactStore) -> Candidate:
    merged = store.require(*scores.inputs["merged_model"])
    training_data = store.require(*merged.inputs["training_data"])
    parts: dict[str, str] = {
        key: scores.inputs[key][1] for key in ("base_model", "adapter", "merged_model") if key in scores.inputs
    }
    checks = check_results(training_data.summary, merged.summary)
    settings = sha256_of_json(store.require("adapter", parts["adapter"]).spec["config"])
    if row.kind == "merged":
        return Candidate(row.name, "merged", row.experiment, merged.fingerprint, parts, checks, settings)
    del checks["merge"]  # an adapter is released unmerged
    return Candidate(row.name, "adapter", row.experiment, parts["adapter"], parts, checks, settings)


def _prompt_candidate(
    row: ComparisonRow, comparison_artifact: Artifact, store: ArtifactStore
) -> tuple[Candidate, ServingConfig] | None:
    """Return the candidate of a prompt variant, and the variant's settings; None if its scores do not name it."""
    baseline = store.require(*comparison_artifact.inputs[row.source])
    variant = baseline.spec["config"]["prompting"]["variants"].get(row.source_row)
    if variant is None:
        return None
    parts = {"base_model": baseline.inputs["base_model"][1], "prompt_variant": sha256_of_json(variant)}
    settings = parts["prompt_variant"]
    return Candidate(row.name, "prompt", None, sha256_of_json(parts), parts, settings_hash=settings), variant
