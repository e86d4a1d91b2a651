"""Manual decisions: `ft promote` and `ft rollback`, with the same rules and checks as in a run."""

from collections.abc import Mapping
from dataclasses import replace

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.records import Comparison, ComparisonRow, read_comparison
from ft_pipeline.release import champion
from ft_pipeline.release.candidates import candidates, key_of
from ft_pipeline.release.champion import Candidate, ChampionRecord, Promotion
from ft_pipeline.release.promotion import decide_one, promotion
from ft_pipeline.settings.project import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers


class NotPromoted(Exception):
    """The rules reject the candidate. The message says what it lacks."""


def promote(
    store: ArtifactStore, compared: Artifact, settings: PromotionSettings, name: str, *, force: bool, reason: str
) -> tuple[ChampionRecord, bool]:
    """Release the model of `name` (an experiment, or a row of the comparison).

    Returns the record, and whether it is new. The checks are read again from the manifests. Raises NotPromoted if a
    rule rejects the model, unless `force`, which needs a `reason`. Raises UserError for an unknown name, and for a
    model that was scored again since the comparison.
    """
    if force and not reason.strip():
        raise UserError("A forced promotion needs a reason for the record. Use --force --reason TEXT.")
    comparison = read_comparison(compared)
    known, served = candidates(compared, store)
    row = find_row(comparison, known, name)
    _require_newest(store, compared, row)
    candidate = known[row.name]
    new = False

    def choose(present: ChampionRecord | None) -> Promotion | None:
        nonlocal new
        new = present is None or present.fingerprint != candidate.fingerprint
        if not new:
            return None
        decision = decide_one(comparison, known, settings, present, row.name)
        if not decision.move and not force:
            raise NotPromoted(f"{row.name} is not promoted: {'; '.join(decision.reasons)}")
        move = promotion(replace(decision, move=True), known, compared.fingerprint)
        assert move is not None
        lacks = [] if decision.move else decision.reasons
        return replace(
            move,
            reason=reason.strip() or decision.reasons[-1],
            evidence={**move.evidence, "served": served[row.name], "lacks": lacks},
            forced=force,
            by_hand=True,
            looked_at=key_of(compared),
            passed_over=tuple(option.fingerprint for option in known.values()),
        )

    record = champion.promote(store.root, choose)
    assert record is not None
    return record, new


def rollback(store: ArtifactStore, compared: Artifact | None, reason: str) -> ChampionRecord:
    """Restore the champion before the current one, exactly.

    Raises UserError if there is none, or if the store no longer has it.
    """
    target = champion.before(store.root)
    for kind, fingerprint in target.fingerprints.items():
        if kind in {"base_model", "adapter", "merged_model"}:
            store.require(kind, fingerprint)
    if compared is None:
        return champion.rollback(store.root, reason)
    known, _ = candidates(compared, store)
    fingerprints = [candidate.fingerprint for candidate in known.values()]
    return champion.rollback(store.root, reason, key_of(compared), fingerprints)


def find_row(comparison: Comparison, known: Mapping[str, Candidate], name: str) -> ComparisonRow:
    """Return the row of `name`: an experiment's merged model (its adapter if it has none), or a row by name.

    Raises UserError if there is none, or if it cannot be released.
    """
    rows = comparison.rows
    own = [row for kind in ("merged", "adapter") for row in rows if (row.experiment, row.kind) == (name, kind)]
    match = next(iter(own), None) or comparison.row(name)
    if match is not None and match.name in known:
        return match
    names = ", ".join([*sorted({option.experiment for option in known.values() if option.experiment}), *known])
    choice = f"Choose one of {names}." if names else "No row of it can be released."
    if match is None:
        raise UserError(f"The comparison has no row {name!r}. {choice}")
    raise UserError(f"{name!r} is of kind {match.kind}, which cannot be released. {choice}")


def _require_newest(store: ArtifactStore, compared: Artifact, row: ComparisonRow) -> None:
    if row.experiment is None:
        return
    pointer = AssetPointers(store.root).read("scores", row.experiment)
    if pointer is not None and pointer.fingerprint != compared.inputs[f"{row.experiment}/scores"][1]:
        raise UserError(f"{row.experiment} was scored again after the comparison. Run `ft run`, then promote it.")
