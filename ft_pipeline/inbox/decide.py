"""Accept or reject proposals: the only way from served answers to data/raw. `ft inbox` and the asset `inbox` use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.inbox.accepted_files import append_calls
from ft_pipeline.inbox.decisions import record
from ft_pipeline.inbox.proposals import RAW_FORMAT, Inbox, Proposal, lines_together, read_inbox
from ft_pipeline.project import Project
from ft_pipeline.store.locks import FileLock, project_lock

SHOWN_ID = 80
"""Characters of an id in a message."""


@dataclass(frozen=True)
class Decided:
    """What was decided."""

    accepted: list[str]
    rejected: list[str]
    files: list[str]
    """Files in data/raw/traces that got the accepted calls."""

    def to_json(self) -> dict[str, list[str]]:
        """Return the document of `ft inbox accept --json`."""
        return {"accepted": self.accepted, "rejected": self.rejected, "files": self.files}


def decide(
    project: Project, log: Path, accept: Sequence[str] = (), reject: Sequence[str] = (), reason: str = ""
) -> Decided:
    """Accept and reject proposals by the ids of their calls, and record who did so.

    Raises UserError before anything is written if an id is not an open proposal, or if the tables would not use an
    accepted one. Waits while `ft erase`, or another decision, is under way.
    """
    accept, reject = list(dict.fromkeys(accept)), list(dict.fromkeys(reject))
    if both := next((identity for identity in accept if identity in reject), None):
        raise UserError(f"{both[:SHOWN_ID]!r} is to be accepted and rejected. Name it once.")
    lock = FileLock(project.store / "locks" / "inbox", "deciding on proposals")
    with project_lock(project.store).hold(shared=True), lock.hold():
        inbox = read_inbox(project, log)
        for identity in (*accept, *reject):
            proposal = find_open(inbox, identity)
            if identity in accept and not proposal.is_acceptable:
                raise UserError(
                    f"{identity[:SHOWN_ID]!r} would not be used ({proposal.reason}). Reject it, or correct it again."
                )
        files = append_calls(project.raw_folder(RAW_FORMAT), lines_together(inbox, accept)) if accept else []
        versions = {identity: inbox.traffic.feedback[identity].version for identity in (*accept, *reject)}
        if accept:
            record(project.store, "accepted", {name: versions[name] for name in accept}, reason, files)
        if reject:
            record(project.store, "rejected", {name: versions[name] for name in reject}, reason, ())
    return Decided(accept, reject, sorted(files))


def find_open(inbox: Inbox, identity: str) -> Proposal:
    """Return an open proposal. Raises UserError that says why there is none, and names the closest id."""
    by_id = {proposal.id: proposal for proposal in inbox.proposals}
    if identity in by_id:
        return by_id[identity]
    name = repr(identity[:SHOWN_ID])
    if (decision := inbox.decisions.get(identity)) is not None:
        raise UserError(f"{name} was {decision.describe()}. It is proposed again when there is newer feedback.")
    if identity in inbox.traffic.calls:
        raise UserError(f"{name} was neither corrected nor rated. Send a correction to POST /v1/feedback first.")
    close = get_close_matches(identity, by_id, n=1, cutoff=0.0)
    advice = f"The closest is {close[0]!r}." if close else "List the open ones with `ft inbox`."
    raise UserError(f"No open proposal has the id {name}. {advice}")
