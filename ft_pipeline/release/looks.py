"""Write looks at the test rows to the ledger: when scores are written, and when a comparison shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.claim import OpinionFacts
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.decide.exposure_ledger import Look
from ft_pipeline.decide.released import Candidate
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.evaluation.tuned_variants import variant_of
from ft_pipeline.release.candidates import candidates_in, decision_key_of, find_candidates
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json

OF_THE_EVALUATION = (
    *("max_new_tokens", "tokens_of", "max_test_rows", "answer_format", "metrics", "call_arguments"),
    *("rivals", "tasks", "probes", "slices"),
)
"""Settings of `evaluation` that change what a decision says about the same models."""


def decided_by(settings: ProjectSettings) -> dict[str, Any]:
    """Return the settings that a decision reads, by their names in project.yaml. Prompts are looks of their own."""
    rules = {f"promotion.{name}": value for name, value in settings.promotion.model_dump(mode="json").items()}
    evaluation = settings.evaluation.model_dump(mode="json", include=set(OF_THE_EVALUATION))
    return rules | {f"evaluation.{name}": value for name, value in evaluation.items()}


def ids_of_test_rows(scored: Artifact) -> list[str]:
    """Return what identifies the test conversations of scores or of a comparison, sorted: their questions, so that an
    edit of white space makes no fresh rows; their ids in scores of older versions."""
    table = pq.read_table(scored.path / "samples.parquet")
    column = table.column("question_key" if "question_key" in table.column_names else "group")
    return sorted(pc.unique(column).to_pylist())


def write_looks_at_scores(store: ArtifactStore, scores: Artifact, experiment: str, settings: Mapping[str, Any]) -> None:
    """Write the looks at some scores, before anybody sees them. settings: see decided_by."""
    rows = [
        Row(
            name=f"{experiment}/{row['name']}",
            kind=row["kind"],
            experiment=experiment,
            variant=variant_of(row["name"]) if row["kind"] in TUNED else None,
            scores={},
            source_row=row["name"],
        )
        for row in scores.summary["rows"]
    ]
    candidates, _ = candidates_in(rows, lambda row: scores, store)
    ids = ids_of_test_rows(scores)
    looks = [_look(candidate, ids, settings) for candidate in candidates.values()]
    exposure_ledger.write_looks(store.root, list(dict.fromkeys(looks)), ids, settings)


def write_looks_at_comparison(
    store: ArtifactStore, artifact: Artifact, settings: Mapping[str, Any], ids: Sequence[str]
) -> None:
    """Write the looks at a comparison, before anybody sees it. Arguments as in looks_at."""
    candidates, _ = find_candidates(artifact, store)
    write_shown(store, artifact, looks_at(whole_comparison(artifact), candidates, settings, ids), settings, ids)


def write_shown(
    store: ArtifactStore,
    artifact: Artifact,
    looks: Mapping[str, Look],
    settings: Mapping[str, Any],
    ids: Sequence[str],
) -> None:
    """Write what a comparison shows for the first time. looks: those of looks_at."""
    new = list(dict.fromkeys(looks.values()))
    exposure_ledger.write_looks(store.root, new, ids, settings, decision_key_of(artifact))


def looks_at(
    comparison: Comparison, candidates: Mapping[str, Candidate], settings: Mapping[str, Any], ids: Sequence[str]
) -> dict[str, Look]:
    """Return the looks at the candidates of a comparison, by row name.

    settings: see decided_by. ids: those of ids_of_test_rows.
    """
    return {
        name: _look(candidate, ids, settings, _opinions(comparison, comparison.row(name)))
        for name, candidate in candidates.items()
    }


def _look(candidate: Candidate, ids: Sequence[str], settings: Mapping[str, Any], opinions: Sequence[str] = ()) -> Look:
    """Return the look at a candidate. A merged model is the same as its adapter."""
    parts, is_tuned = candidate.fingerprints, candidate.kind in TUNED
    weights = [parts["adapter"], parts.get("prompt_variant"), parts.get("text")] if is_tuned else candidate.fingerprint
    rows = exposure_ledger.digest_of_rows(ids)
    identity = sha256_of_json([weights, rows, dict(settings), *([list(opinions)] if opinions else [])])
    name = candidate.name.replace("/adapter", "").replace("/merged", "") if is_tuned else candidate.name
    return Look(identity, name.partition("@")[0], candidate.settings_hash, is_tuned)


def _opinions(comparison: Comparison, row: Row | None) -> list[str]:
    """Return the opinions that decide about a row: with more ratings, it is looked at again."""
    if row is None:
        return []
    claims = (comparison.deciding(row, rival) for rival in comparison.rivals(row))
    return [
        f"{claim.rival} {claim.measure} {told.rated} {told.judged} {claim.p}"
        for claim in claims
        if claim.kind == "opinion"
        for told in [claim.told(OpinionFacts)]
    ]
