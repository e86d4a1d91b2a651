"""Manual decisions about the champion: `ft promote`, by what the decision says of the model, and `ft rollback`."""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure_ledger import EVIDENCE_KEY, named_by, read_entries
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.decide.requirements import ByHand, Requirements
from ft_pipeline.errors import UserError
from ft_pipeline.release import champion
from ft_pipeline.release.candidates import decision_key_of, find_candidates
from ft_pipeline.release.intact import released_artifacts, require_signed_evidence
from ft_pipeline.release.requests import MoveRequest, request_move
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact


class NotPromoted(Exception):
    """The rules reject the candidate. The message lists the failed requirements."""


class NotDecided(UserError):
    """The decision says nothing about the candidate."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} was not decided on: {why}. Run `ft run`, then promote it.")
        self.lack = f"was not decided on: {why}"


def promote(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    name: str,
    *,
    read: Mapping[str, Any],
    force: bool,
    reason: str,
    two_people: bool,
) -> tuple[ChampionRecord | None, bool, MoveRequest | None]:
    """Release the model of `name` (an experiment, or a row of the comparison), by what the decision says about it.

    read: the settings that a decision reads now (looks.decided_by). Returns the record, and whether it is new. With
    `two_people`, the champion stays (the record is None if there is none yet), and the request is returned, too. Raises
    NotPromoted if a rule rejects the model, and NotDecided if no decision holds for it and for the present champion,
    unless `force`, which needs a `reason`. Raises UserError for an unknown name, for a model that was scored again
    since the comparison, and if the evidence is not as it was signed.
    """
    if force and not reason.strip():
        raise UserError("A forced promotion needs a reason for the record. Use --force --reason TEXT.")
    decision = current_artifact(store, "decision")
    evidence = [artifact.reference for artifact in (comparison_artifact, decision) if artifact]
    require_signed_evidence(store, evidence)
    comparison = read_comparison(comparison_artifact)
    candidates, serving = find_candidates(comparison_artifact, store)
    row = find_row(comparison, candidates, name)
    _require_newest(store, comparison_artifact, row)
    candidate = candidates[row.name]
    is_new = False

    def choose(current: ChampionRecord | None) -> Promotion | None:
        nonlocal is_new
        is_new = current is None or current.fingerprint != candidate.fingerprint
        if not is_new:
            return None
        try:
            found = _by_hand(decision, comparison_artifact, read, current, row.name)
        except NotDecided as undecided:
            if not force:
                raise
            found = ByHand(lacks=[undecided.lack], reason="", evidence={"metric": comparison.primary})
        if found.lacks and not force:
            raise NotPromoted(f"{row.name} is not promoted: {'; '.join(found.lacks)}")
        looks = read_entries(store.root, named_by(champion.history(store.root)))
        return Promotion(
            candidate=candidate,
            reason=reason.strip() or found.reason,
            evidence={
                "comparison": comparison_artifact.fingerprint,
                **found.evidence,
                "served": serving[row.name],
                "lacks": list(found.lacks),
                EVIDENCE_KEY: len(looks),
            },
            forced=force,
            by_hand=True,
            looked_at=decision_key_of(comparison_artifact),
            passed_over=tuple(option.fingerprint for option in candidates.values()),
        )

    if two_people:
        standing, request = request_move(store.root, choose)
        return standing, False, request
    record = champion.promote(store.root, choose)
    assert record is not None
    return record, is_new, None


def _by_hand(
    decision: Artifact | None, comparison: Artifact, read: Mapping[str, Any], standing: ChampionRecord | None, name: str
) -> ByHand:
    """Return what the decision says about a row against the present champion. Raises NotDecided if it says nothing.

    decision: the current one. read: the settings that a decision reads now.
    """
    if decision is None or decision.inputs["comparison"] != comparison.reference:
        raise NotDecided(name, "the comparison is newer than the decision")
    by_hand = Requirements.of(decision.document("decision.json")).by_hand
    if not by_hand:
        raise NotDecided(name, "the decision is of an older version")
    if decision.spec["config"]["read"] != read:
        raise NotDecided(name, "a setting that decides was changed after the decision")
    if (fingerprint := standing.fingerprint if standing else "") not in by_hand:
        raise NotDecided(name, "the champion moved after the decision")
    return by_hand[fingerprint][name]


def rollback(store: ArtifactStore, comparison_artifact: Artifact | None, reason: str) -> ChampionRecord:
    """Restore the champion before the current one, exactly.

    comparison_artifact: the current one, if there is one. Raises UserError if there is no earlier champion, or if
    the store no longer has its artifacts as they were signed.
    """
    target = champion.previous_champion(store.root)
    released = released_artifacts(target.fingerprints)
    for reference in released:
        store.require(*reference)
    require_signed_evidence(store, released)
    if comparison_artifact is None:
        return champion.rollback(store.root, reason)
    candidates, _ = find_candidates(comparison_artifact, store)
    fingerprints = [candidate.fingerprint for candidate in candidates.values()]
    return champion.rollback(store.root, reason, decision_key_of(comparison_artifact), fingerprints)


def find_row(comparison: Comparison, candidates: Mapping[str, Candidate], name: str) -> Row:
    """Return the row of `name`: an experiment's merged model (its adapter if it has none), or a row by name.

    Raises UserError if there is none, if it cannot be released, or if it is not compared because it is contaminated.
    """
    rows = comparison.rows
    of_experiment = [
        row
        for kind in ("merged", "adapter")
        for row in rows
        if (row.experiment, row.kind, row.variant) == (name, kind, None)
    ]
    match = next(iter(of_experiment), None) or comparison.row(name)
    if match is not None and match.name in candidates:
        return match
    for entry in comparison.contaminated_experiments:
        if match is None and name.partition("/")[0] == entry.model:
            raise UserError(entry.describe())
    experiments = sorted({candidate.experiment for candidate in candidates.values() if candidate.experiment})
    names = ", ".join([*experiments, *candidates])
    advice = f"Choose one of {names}." if names else "No row of it can be released."
    if match is None:
        raise UserError(f"The comparison has no row {name!r}. {advice}")
    raise UserError(f"{name!r} is of kind {match.kind}, which cannot be released. {advice}")


def _require_newest(store: ArtifactStore, comparison_artifact: Artifact, row: Row) -> None:
    """Raise UserError if the row's experiment was scored again after the comparison."""
    if row.experiment is None:
        return
    pointer = AssetPointers(store.root).read("scores", row.experiment)
    if pointer is not None and pointer.fingerprint != comparison_artifact.inputs[f"{row.experiment}/scores"][1]:
        raise UserError(f"{row.experiment} was scored again after the comparison. Run `ft run`, then promote it.")
