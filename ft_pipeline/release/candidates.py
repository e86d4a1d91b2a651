"""What a comparison offers for release: its rows, with the artifacts and the gates behind them."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.release.champion import Candidate, decision_key
from ft_pipeline.release.promotion import gates
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json

Served = dict[str, Any]
"""How a model is loaded and prompted; whoever scores or serves it again must know."""


def key_of(comparison: Artifact) -> str:
    """The decision key of a comparison artifact."""
    return decision_key(comparison.inputs, comparison.spec["config"])


def candidates(comparison: Artifact, store: ArtifactStore) -> tuple[dict[str, Candidate], dict[str, Served]]:
    """By row name of the comparison: what can be released, its gates as the manifests record them now; and how each is
    served."""
    document = comparison.document("comparison.json")
    found: dict[str, Candidate] = {}
    served: dict[str, Served] = {}
    for row in document["rows"]:
        name = row["name"]
        if row["kind"] in {"adapter", "merged"}:
            scores = store.require(*comparison.inputs[f"{row['experiment']}/scores"])
            found[name] = _tuned(row, scores, store)
            served[name] = {key: scores.spec["config"][key] for key in ("technique", "quantization", "system_prompt")}
        elif row["kind"] == "prompt" and (scored := _scored_prompt(row, comparison, store)) is not None:
            found[name], served[name] = scored
    return found, served


def row_of(document: Mapping[str, Any], known: Mapping[str, Candidate], released: str) -> str | None:
    """The comparison's row of the released model with this fingerprint; None where it has no score there. A name alone
    would not do: an experiment that was trained anew has a row of the same name."""
    same = [name for name, candidate in known.items() if candidate.fingerprint == released]
    if (document.get("champion") or {}).get("fingerprint") == released:
        same += [row["name"] for row in document["rows"] if row["kind"] == "champion"]
    return next(iter(same), None)


def _tuned(row: dict[str, Any], scores: Artifact, store: ArtifactStore) -> Candidate:
    merged = store.require(*scores.inputs["merged_model"])
    audited = store.require(*merged.inputs["training_data"])
    parts: dict[str, str] = {
        key: scores.inputs[key][1] for key in ("base_model", "adapter", "merged_model") if key in scores.inputs
    }
    passed = gates(audited.summary, merged.summary)
    if row["kind"] == "adapter":
        del passed["merge"]  # what is released was never merged
    released = parts["adapter"] if row["kind"] == "adapter" else merged.fingerprint
    return Candidate(row["name"], row["kind"], row["experiment"], released, parts, passed)


def _scored_prompt(
    row: dict[str, Any], comparison: Artifact, store: ArtifactStore
) -> tuple[Candidate, dict[str, Any]] | None:
    """The candidate of a prompt variant, and the variant; None for one of another base model (`name@experiment`), which
    the comparison shows but nothing releases."""
    baselines = [reference for key, reference in sorted(comparison.inputs.items()) if key.endswith("/prompt_baseline")]
    for reference in baselines:
        baseline = store.require(*reference)
        variant = baseline.spec["config"]["prompting"]["variants"].get(row["name"])
        if variant is not None:
            parts = {"base_model": baseline.inputs["base_model"][1], "prompt_variant": sha256_of_json(variant)}
            return Candidate(row["name"], "prompt", None, sha256_of_json(parts), parts), variant
    return None
