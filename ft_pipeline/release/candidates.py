"""The candidates: the rows of a comparison that can be released, with their artifacts and checks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.decide.released import Candidate
from ft_pipeline.evaluation.model_kinds import TUNED, WORD_MODEL
from ft_pipeline.evaluation.tuned_variants import looks_up, scored_with, variants_in
from ft_pipeline.release.champion import decision_key
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

    def scores_of(row: Row) -> Artifact:
        source = f"{row.experiment}/scores" if row.kind in TUNED else row.source
        return store.require(*comparison_artifact.inputs[source])

    return candidates_in(whole_comparison(comparison_artifact).rows, scores_of, store)


def candidates_in(
    rows: Iterable[Row], scores_of: Callable[[Row], Artifact], store: ArtifactStore
) -> tuple[dict[str, Candidate], dict[str, ServingConfig]]:
    """Return find_candidates of some rows. scores_of: the scores that a row was read from."""
    candidates: dict[str, Candidate] = {}
    serving: dict[str, ServingConfig] = {}
    for row in rows:
        if row.kind in TUNED:
            scores = scores_of(row)
            serving[row.name] = scored_with(scores.spec["config"], row.source_row)
            candidates[row.name] = _tuned_candidate(row, scores, store)
        elif row.kind == "prompt" and (prompt := _prompt_candidate(row, scores_of(row))) is not None:
            candidates[row.name], serving[row.name] = prompt
        elif row.kind == "classifier":
            candidates[row.name], serving[row.name] = _classifier_candidate(row, scores_of(row), store), {}
    return candidates, serving


def released_row(comparison: Comparison, candidates: Mapping[str, Candidate], fingerprint: str) -> str | None:
    """Return the name of the comparison's row of the released model (its fingerprint); None if it has no score there.

    The name is not enough: an experiment that was trained again has a row of the same name.
    """
    names = [name for name, candidate in candidates.items() if candidate.fingerprint == fingerprint]
    if comparison.champion_fingerprint == fingerprint:
        names += [row.name for row in comparison.rows if row.kind == "champion"]
    return next(iter(names), None)


def _tuned_candidate(row: Row, scores: Artifact, store: ArtifactStore) -> Candidate:
    merged = store.require(*scores.inputs["merged_model"])
    training_data = store.require(*merged.inputs["training_data"])
    parts: dict[str, str] = {
        key: scores.inputs[key][1] for key in ("base_model", "adapter", "merged_model") if key in scores.inputs
    }
    checks = check_results(training_data.summary, merged.summary)
    settings = sha256_of_json(store.require("adapter", parts["adapter"]).spec["config"])
    if row.kind == "merged":
        released = Candidate(
            name=row.name,
            kind="merged",
            experiment=row.experiment,
            fingerprint=merged.fingerprint,
            fingerprints=parts,
            gates=checks,
            settings_hash=settings,
        )
    else:
        del checks["merge"]  # an adapter is released unmerged
        released = Candidate(
            name=row.name,
            kind="adapter",
            experiment=row.experiment,
            fingerprint=parts["adapter"],
            fingerprints=parts,
            gates=checks,
            settings_hash=settings,
        )
    return released if row.variant is None else _under_variant(released, scores, row.variant)


def _under_variant(released: Candidate, scores: Artifact, variant: str) -> Candidate:
    """Return a candidate under a prompt variant: other settings, and another identity."""
    variant_settings = variants_in(scores.spec["config"])[variant]
    prompt = prompt_parts(scores, variant_settings)
    own = {
        "fingerprint": prompted_fingerprint({"model": released.fingerprint, **prompt}, variant_settings),
        "fingerprints": {**released.fingerprints, **prompt},
        "settings_hash": sha256_of_json([released.settings_hash, prompt["prompt_variant"]]),
    }
    return released.model_copy(update=own)


def prompt_parts(scores: Artifact, variant: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of what a prompt variant in some scores consists of, by role: its settings, and what is
    looked up for each question. `conversations` also says which texts show a held-out row."""
    parts = {"prompt_variant": sha256_of_json(variant)}
    if variant.get("passages"):
        parts["text"] = scores.inputs["text"][1]
    if looks_up(variant):
        parts["conversations"] = scores.inputs["conversations"][1]
    return parts


def prompted_fingerprint(parts: Mapping[str, str], variant: Mapping[str, Any]) -> str:
    """Return the identity of a model under a prompt variant. New texts, and new rows for retrieved examples, make
    another candidate: they do not change the released one."""
    has_examples = variant.get("examples") == "retrieved"
    return sha256_of_json({role: part for role, part in parts.items() if role != "conversations" or has_examples})


def _prompt_candidate(row: Row, baseline: Artifact) -> tuple[Candidate, ServingConfig] | None:
    """Return the candidate of a prompt variant, and the variant's settings; None if its scores do not name it."""
    variant = variants_in(baseline.spec["config"]).get(row.source_row)
    if variant is None:
        return None
    parts = {"base_model": baseline.inputs["base_model"][1], **prompt_parts(baseline, variant)}
    settings = parts["prompt_variant"]
    fingerprint = prompted_fingerprint(parts, variant)
    return Candidate(
        name=row.name,
        kind="prompt",
        experiment=None,
        fingerprint=fingerprint,
        fingerprints=parts,
        settings_hash=settings,
    ), variant


def _classifier_candidate(row: Row, scores: Artifact, store: ArtifactStore) -> Candidate:
    model = store.require(*scores.inputs[WORD_MODEL])
    settings = sha256_of_json(model.spec["config"])
    parts = {WORD_MODEL: model.fingerprint}
    return Candidate(
        name=row.name,
        kind="classifier",
        experiment=None,
        fingerprint=model.fingerprint,
        fingerprints=parts,
        settings_hash=settings,
    )


def check_results(training_data_summary: Mapping[str, Any], merged_model_summary: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether each check of a tuned model passed, from the summaries in its manifests. A missing check counts as
    failed."""
    audit = training_data_summary.get("audit", {}).get("checks", {})
    return {
        "token_audit": bool(audit) and all(check.get("passed") is True for check in audit.values()),
        "merge": merged_model_summary.get("passed") is True,
    }
