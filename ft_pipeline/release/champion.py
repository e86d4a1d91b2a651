"""The champion (the released model): an append-only sequence of records, `champion/000001.json`, `000002.json`.

A record is never changed or removed. The record with the highest number is the champion. A rollback appends a copy of
an earlier record. If two promotions happen at once, both try to create the same next number: one succeeds, the other
decides again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.decide.released import ChampionRecord, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.provenance import user_name

RELEASED_ARTIFACTS = ("base_model", "adapter", "merged_model", "word_model", "text", "conversations")
"""The roles among the fingerprints of a champion that are artifacts, which its release needs."""


def ledger(store: Path) -> Ledger[ChampionRecord]:
    """Return the ledger of champion records under the store folder `store`."""
    return Ledger(store / "champion", "sequence", ChampionRecord, ChampionRecord)


def history(store: Path) -> list[ChampionRecord]:
    """Return all records under the store folder `store`, oldest first. Raises UserError if one cannot be read."""
    return ledger(store).read()


def current(store: Path) -> ChampionRecord | None:
    """Return the champion, or None if nothing was ever released."""
    records = history(store)
    return records[-1] if records else None


_NOT_IN_KEY = ("champion", "prices", "base_names", "first", "not_asked")
"""Settings of a comparison that `decision_key` leaves out."""


def decision_key(compared_scores: Mapping[str, tuple[str, str]], settings: Mapping[str, Any]) -> str:
    """Return a hash of the basis of a decision: the compared scores (name → artifact), and the comparison's settings.

    The champion's scores are not part of it: otherwise each move of the champion would require another comparison, and
    that another decision. Nor are the verdicts of a judge, which are about the champion, too. Prices and GGUF files are
    not part of it, since they do not affect decisions.
    """
    scores = {
        name: reference
        for name, reference in compared_scores.items()
        if not name.startswith("champion/") and not name.endswith("/gguf_scores") and not name.startswith("judgements")
    }
    relevant_settings = {key: value for key, value in settings.items() if key not in _NOT_IN_KEY}
    return sha256_of_json({"scores": scores, **relevant_settings})


def champion_before(store: Path, decided_on: str) -> ChampionRecord | None:
    """Return the champion before the rules moved it on the basis of these scores (a decision key).

    A comparison includes this champion, not the current one. Otherwise it would be out of date as soon as its own
    decision moved the champion. Manual moves count: the champion after one is returned.
    """
    records = history(store)
    while records and not records[-1].by_hand and records[-1].evidence.get("decided_on") == decided_on:
        records.pop()
    return records[-1] if records else None


def manually_rejected(records: Sequence[ChampionRecord]) -> dict[str, int]:
    """Return, by fingerprint, the models that a person passed over or rolled back, and the number of that record.

    Only a person can release such a model again. Otherwise the next run, with the same scores, would undo the person's
    decision. A model that is trained again has another fingerprint.
    """
    rejected: dict[str, int] = {}
    for record in records:
        rejected.update(dict.fromkeys(record.passed_over, record.sequence))
        rejected.pop(record.fingerprint, None)
    return rejected


def promote(
    store: Path,
    choose: Callable[[ChampionRecord | None], Promotion | None],
    *,
    request: int | None = None,
    requested_by: str | None = None,
) -> ChampionRecord | None:
    """Append the promotion that `choose` returns, and return the champion afterwards.

    request, requested_by: number and author of the request that it carries out.

    `choose` gets the current champion, and returns None if it stays. If another process promotes in between, `choose`
    is called again with the new champion: no promotion is lost, and none is decided against a former champion. Raises
    UserError for a forced promotion without a reason.
    """
    while True:
        champion = current(store)
        promotion = choose(champion)
        if promotion is None:
            return champion
        asked = {"request": request, "requested_by": requested_by}
        record = next_record(promotion, champion).model_copy(update=asked)
        if written := ledger(store).append(record.model_dump()):
            return written


def previous_champion(store: Path) -> ChampionRecord:
    """Return the champion that a rollback would restore. Raises UserError if there is none."""
    return _last_two(store)[1]


def rollback(
    store: Path, reason: str = "", looked_at: str | None = None, candidate_fingerprints: Iterable[str] = ()
) -> ChampionRecord:
    """Restore the champion before the current one, exactly, as a new record. A second rollback goes further back.

    looked_at: the decision key of the current comparison. candidate_fingerprints: those of its candidates. No run
    promotes one of them, or the model that is rolled back, over this decision. Raises UserError if there is no earlier
    champion.
    """
    while True:
        champion, target = _last_two(store)
        prefix = f"rollback from {champion.name} (record {champion.sequence})"
        restored = {
            **target.model_dump(),
            "sequence": champion.sequence + 1,
            "since": _now(),
            "reason": f"{prefix}: {reason}" if reason.strip() else prefix,
            "forced": False,
            "restores": target.sequence,
            "request": None,
            "requested_by": None,
            "by_hand": True,
            "looked_at": looked_at,
            "passed_over": sorted({champion.fingerprint, *candidate_fingerprints} - {target.fingerprint}),
            "by": user_name(),
        }
        if written := ledger(store).append(restored):
            return written


def _last_two(store: Path) -> tuple[ChampionRecord, ChampionRecord]:
    """Return the champion, and the one that a rollback restores. Raises UserError if there is none."""
    records = {record.sequence: record for record in history(store)}
    if not records:
        raise UserError("There is no champion yet to roll back from. Run `ft promote NAME` to release one.")
    champion = records[max(records)]
    if champion.previous_sequence is None:
        raise UserError(f"{champion.name!r} is the first champion, so it cannot be rolled back. Use `ft promote NAME`.")
    return champion, records[champion.previous_sequence]


def next_record(promotion: Promotion, previous: ChampionRecord | None) -> ChampionRecord:
    """Return the record of a promotion, without writing it. Raises UserError if it is forced without a reason."""
    if promotion.forced and not promotion.reason.strip():
        raise UserError("A forced promotion needs a reason for the record. Use --force --reason TEXT.")
    candidate = promotion.candidate
    return ChampionRecord(
        sequence=previous.sequence + 1 if previous else 1,
        name=candidate.name,
        kind=candidate.kind,
        experiment=candidate.experiment,
        fingerprint=candidate.fingerprint,
        fingerprints=candidate.fingerprints,
        since=_now(),
        reason=promotion.reason,
        forced=promotion.forced,
        previous=previous.name if previous else None,
        previous_sequence=previous.sequence if previous else None,
        evidence={**promotion.evidence, "gates": candidate.gates},
        by_hand=promotion.by_hand,
        looked_at=promotion.looked_at,
        passed_over=sorted(set(promotion.passed_over) - {candidate.fingerprint}),
        by=user_name(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
