"""Requests to move the champion, for projects with `promotion.two_people`: one person asks, another one approves.

Numbered records in `requests`. A request is open until the champion moves, by its approval or otherwise.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from ft_pipeline.decide.released import ChampionRecord, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.release import champion
from ft_pipeline.release.intact import released_artifacts, require_signed_evidence
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.at_rest import not_as_signed, require_as_signed
from ft_pipeline.store.ledger import Ledger
from ft_pipeline.store.provenance import user_name


class MoveRequest(BaseModel, frozen=True, extra="forbid"):
    """A move of the champion that waits for another person."""

    sequence: int
    promotion: Promotion
    standing: int | None
    """Number of the champion's record at that time; None: there was no champion."""
    time: str
    """UTC, ISO 8601."""
    by: str
    """The operating system's user whose process asked."""
    previous_sha256: str | None = None

    @property
    def name(self) -> str:
        """The row of the comparison that is to be released."""
        return self.promotion.candidate.name

    def describe(self) -> str:
        """Return what waits, and how to approve it."""
        return f"request {self.sequence} by {self.by} waits for another person: ft approve {self.sequence}"


def ledger(store: Path) -> Ledger[MoveRequest]:
    """Return the ledger of requests under the store folder `store`."""
    return Ledger(store / "requests", "sequence", MoveRequest, MoveRequest)


def open_request(store: Path) -> MoveRequest | None:
    """Return the last request, if the champion has not moved since; else None."""
    records = ledger(store).read()
    if not records:
        return None
    request, current = records[-1], champion.current(store)
    return request if request.standing == (current.sequence if current else None) else None


def request_move(
    store: Path, choose: Callable[[ChampionRecord | None], Promotion | None]
) -> tuple[ChampionRecord | None, MoveRequest | None]:
    """Record the promotion that `choose` returns as a request. Return the champion, which stays, and the request.

    The same model is not asked for twice: its open request is returned. The request is None if `choose` returns None.
    """
    while True:
        current = champion.current(store)
        promotion = choose(current)
        if promotion is None:
            return current, None
        if promotion.forced and not promotion.reason.strip():
            raise UserError("A forced promotion needs a reason for the record. Use --force --reason TEXT.")
        waiting = open_request(store)
        if waiting is not None and waiting.promotion.candidate.fingerprint == promotion.candidate.fingerprint:
            return current, waiting
        now = datetime.now(UTC).isoformat(timespec="seconds")
        standing = current.sequence if current else None
        request = MoveRequest(
            sequence=ledger(store).next_number(), promotion=promotion, standing=standing, time=now, by=user_name()
        )
        if written := ledger(store).append(request.model_dump()):
            return current, written


def approve(store: Path, number: int) -> ChampionRecord:
    """Carry out an open request. Raises UserError if it is not open, if this person made it, or if what it
    rests on is not as it was signed."""
    request = open_request(store)
    if request is None or request.sequence != number:
        waits = f"The open one is {request.sequence}." if request else "No request is open."
        raise UserError(f"There is no open request {number}. {waits}")
    _require_as_signed(store, request)
    if request.by == user_name():
        raise UserError(
            f"{request.by} made request {number}, so another person must approve it. Let them run: ft approve {number}"
        )
    asked = request.promotion
    evidence = released_artifacts(asked.candidate.fingerprints, asked.evidence.get("comparison"))
    require_signed_evidence(ArtifactStore(store), evidence)

    def choose(current: ChampionRecord | None) -> Promotion:
        if (current.sequence if current else None) != request.standing:
            raise UserError(f"The champion moved after request {number}. Run `ft run` or `ft promote` again.")
        return asked

    record = champion.promote(store, choose, request=number, requested_by=request.by)
    assert record is not None
    return record


def _require_as_signed(store: Path, request: MoveRequest) -> None:
    """Raise UserError if the store is signed, and the request is not as its author's process signed it."""
    check = require_as_signed(store)
    signed = check.state.files.get(f"requests/{ledger(store).path(request.sequence).name}")
    if check.is_signed and (signed is None or signed.entry.by != request.by):
        signer = signed.entry.by if signed else "nobody"
        raise UserError(not_as_signed(f"Request {request.sequence}", f"it names {request.by}, but {signer} signed it"))
