"""The released model: an append-only sequence of records, `champion/000001.json`, `000002.json`, … in the store.

A record is never changed or removed. The one with the highest number is the champion; a rollback appends a copy of an
earlier one. If two promotions happen at once, both try to create the same next number: one succeeds, the other retries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.provenance import user_name

Kind = Literal["merged", "adapter", "prompt"]


@dataclass(frozen=True)
class Candidate:
    """A row of the comparison that may become champion, with its artifacts."""

    name: str
    """The row's name in the comparison, e.g. `qlora` or the name of a prompt variant."""
    kind: Kind
    """`merged` or `adapter` (tuned weights), or `prompt` (the base model under a prompt variant)."""
    experiment: str | None
    """The experiment that trained it; for a prompt variant the one whose base model was scored."""
    fingerprint: str
    """Identity of what is released: the merged model's; for a prompt variant, a hash of base model and prompt."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """The parts by role: `base_model`, `adapter`, `merged_model`, `prompt_variant`."""
    gates: dict[str, bool] = field(default_factory=dict)
    """The recorded checks by name (`token_audit`, `merge`), read again for this promotion; all must be true."""


@dataclass(frozen=True)
class ChampionRecord:
    """One record: the fields of `ft champion --json`, and what is needed to find the artifacts."""

    sequence: int
    name: str
    kind: Kind
    experiment: str | None
    fingerprint: str
    fingerprints: dict[str, str]
    since: str
    """UTC, ISO 8601: when this record was written."""
    reason: str
    forced: bool
    previous: str | None
    """The name of the champion that a rollback restores."""
    previous_sequence: int | None
    """The number of that champion's record."""
    evidence: dict[str, Any]
    """The basis of the promotion: the comparison's fingerprint and the numbers."""
    restores: int | None = None
    """For a rollback: the number of the record that it restores."""
    by_hand: bool = False
    """Whether a person moved the champion (`ft promote`, `ft rollback`), and not the rules of a run."""
    looked_at: str | None = None
    """For a manual move: the decision key of the comparison at that time."""
    passed_over: list[str] = field(default_factory=list)
    """For a manual move: fingerprints of the other candidates. No run promotes one of them over it."""
    by: str | None = None
    """The operating system's user whose process wrote the record."""
    previous_sha256: str | None = None
    """SHA-256 of the previous record's file: an edited record invalidates all records after it."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `ft champion --json`, and the rest of the record."""
        return asdict(self)


@dataclass(frozen=True)
class Promotion:
    """A decision to move the champion: the candidate, the reason and the evidence."""

    candidate: Candidate
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    forced: bool = False
    by_hand: bool = False
    looked_at: str | None = None
    passed_over: tuple[str, ...] = ()


def ledger(store: Path) -> Ledger:
    """Return the ledger of champion records under the store folder `store`."""
    return Ledger(store / "champion", "sequence")


def history(store: Path) -> list[ChampionRecord]:
    """Return all records under the store folder `store`, oldest first. Raises UserError if one cannot be read."""
    return [_as_record(store, record) for record in ledger(store).read()]


def current(store: Path) -> ChampionRecord | None:
    """Return the champion, or None if nothing was ever released."""
    records = history(store)
    return records[-1] if records else None


_NO_GROUNDS = ("champion", "prices")


def decision_key(scored: Mapping[str, tuple[str, str]], settings: Mapping[str, Any]) -> str:
    """Return a hash of the basis of a decision: the compared scores (name → artifact), and the settings.

    The champion's row is not part of it: otherwise a move would require another comparison, and that another decision.
    Prices are not part of it, since they do not affect decisions.
    """
    own = {name: reference for name, reference in scored.items() if not name.startswith("champion/")}
    return sha256_of_json({"scores": own, **{key: value for key, value in settings.items() if key not in _NO_GROUNDS}})


def before_deciding_on(store: Path, decided_on: str) -> ChampionRecord | None:
    """Return the champion before any move that was decided on these scores (`evidence.decided_on`).

    A comparison with the current champion would be out of date as soon as its own decision moved the champion.
    """
    records = history(store)
    while records and not records[-1].by_hand and records[-1].evidence.get("decided_on") == decided_on:
        records.pop()
    return records[-1] if records else None


def manually_rejected(records: Sequence[ChampionRecord]) -> dict[str, int]:
    """Return fingerprint → number of the record by which a person passed the model over or rolled it back.

    Only a person can release such a model again. If it is trained again, it is another model. Otherwise the next run,
    with the same scores, would undo the person's decision.
    """
    held: dict[str, int] = {}
    for record in records:
        held.update(dict.fromkeys(record.passed_over, record.sequence))
        held.pop(record.fingerprint, None)
    return held


def promote(store: Path, choose: Callable[[ChampionRecord | None], Promotion | None]) -> ChampionRecord | None:
    """Append the move that `choose` returns, and return the champion afterwards.

    `choose` gets the current champion and returns a move or None (nothing moves). If another process promotes in
    between, `choose` is called again with the new champion: no promotion is lost, and none is decided against a former
    champion. Raises UserError for a forced promotion without a reason.
    """
    while True:
        present = current(store)
        move = choose(present)
        if move is None:
            return present
        if written := ledger(store).append(asdict(_record_of(move, present))):
            return ChampionRecord(**written)


def before(store: Path) -> ChampionRecord:
    """Return the champion that a rollback would restore. Raises UserError if there is none."""
    return _last_two(store)[1]


def rollback(store: Path, reason: str = "", looked_at: str | None = None, known: Iterable[str] = ()) -> ChampionRecord:
    """Restore the champion before the current one, exactly, as a new record. A second rollback goes further back.

    looked_at, known: the decision key of the current comparison, and the fingerprints of its candidates. No run
    promotes one of them, or the model that is rolled back, over this decision. Raises UserError if there is no earlier
    champion.
    """
    while True:
        present, target = _last_two(store)
        why = f"rollback from {present.name} (record {present.sequence})" + (f": {reason}" if reason.strip() else "")
        restored = replace(
            target,
            sequence=present.sequence + 1,
            since=_now(),
            reason=why,
            forced=False,
            restores=target.sequence,
            by_hand=True,
            looked_at=looked_at,
            passed_over=sorted({present.fingerprint, *known} - {target.fingerprint}),
            by=user_name(),
        )
        if written := ledger(store).append(asdict(restored)):
            return ChampionRecord(**written)


def _last_two(store: Path) -> tuple[ChampionRecord, ChampionRecord]:
    """Return the champion, and the one before it."""
    records = {record.sequence: record for record in history(store)}
    if not records:
        raise UserError("There is no champion yet to roll back from. Run `ft promote NAME` to release one.")
    present = records[max(records)]
    if present.previous_sequence is None:
        raise UserError(f"{present.name!r} is the first champion, so it cannot be rolled back. Use `ft promote NAME`.")
    return present, records[present.previous_sequence]


def _record_of(move: Promotion, present: ChampionRecord | None) -> ChampionRecord:
    if move.forced and not move.reason.strip():
        raise UserError("A forced promotion needs a reason for the record. Use --force --reason TEXT.")
    candidate = move.candidate
    return ChampionRecord(
        sequence=present.sequence + 1 if present else 1,
        name=candidate.name,
        kind=candidate.kind,
        experiment=candidate.experiment,
        fingerprint=candidate.fingerprint,
        fingerprints=candidate.fingerprints,
        since=_now(),
        reason=move.reason,
        forced=move.forced,
        previous=present.name if present else None,
        previous_sequence=present.sequence if present else None,
        evidence={**move.evidence, "gates": candidate.gates},
        by_hand=move.by_hand,
        looked_at=move.looked_at,
        passed_over=sorted(set(move.passed_over) - {candidate.fingerprint}),
        by=user_name(),
    )


def _as_record(store: Path, fields: dict[str, Any]) -> ChampionRecord:
    try:
        return ChampionRecord(**fields)
    except TypeError as error:
        raise UserError(
            f"A champion record cannot be read ({error}). Restore {store / 'champion'} from a backup."
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
