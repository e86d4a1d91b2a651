"""`ft store push`: send what the copy lacks, then its new state."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.copies.histories import History, compare, diverged
from ft_pipeline.copies.places import Place
from ft_pipeline.copies.states import OBJECTS, State, newest_state, object_name, write_state
from ft_pipeline.copies.store_files import Listing, list_store
from ft_pipeline.copies.transfer import LocalFile, Report, missing_objects, send_objects
from ft_pipeline.errors import UserError
from ft_pipeline.store.at_rest import require_as_signed
from ft_pipeline.store.locks import project_lock

HERE = "this store"


@dataclass(frozen=True)
class PushPlan:
    """What a push would do."""

    address: str
    previous: State | None
    listing: Listing
    missing: Mapping[str, LocalFile]
    """The files whose content is sent."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.missing.values())

    @property
    def is_needed(self) -> bool:
        """Whether the copy differs from the store."""
        state = self.previous
        return state is None or {name: file.entry for name, file in self.listing.files.items()} != state.files


@dataclass(frozen=True)
class PushResult:
    """Result of `ft store push`."""

    address: str
    number: int
    """Number of the copy's state."""
    files: int
    """Number of files in the copy."""
    sent: int
    """Number of files whose content was sent."""
    bytes: int
    """Total size of what was sent."""
    unused: list[str] = field(default_factory=list)
    """Objects that are no longer part of the copy: of what was removed or redacted here, or of an interrupted push."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_push(root: Path, place: Place) -> PushPlan:
    """Return what a push of the store `root` would do.

    UserError if the store is empty or damaged, if the copy has changes that the store lacks, or if it is of another
    store.
    """
    require_as_signed(root)
    listing = list_store(root)
    here = local_history(listing)
    if here.is_empty:
        raise UserError("This store is empty. Run `ft run`, or `ft store pull` to get a copy.")
    previous = newest_state(place, "store")
    if previous is not None:
        there = remote_history(place, previous)
        relation = compare(here, there)
        if relation.order == "diverged":
            raise diverged(here, there, relation)
        if relation.order == "behind":
            count = f"{len(there.lines) - relation.common} signed changes" if there.lines else "records"
            raise UserError(
                f"The copy has {count} that this store lacks. Run `ft store pull {place.address}` first, then push "
                "again."
            )
    return PushPlan(place.address, previous, listing, missing_objects(place, listing.files))


def push(root: Path, place: Place, project: str, report: Report) -> PushResult:
    """Send what the copy lacks. After an interruption, the same call completes it. UserError as in plan_push.

    No row is erased meanwhile; runs go on, and what they record from now on is left for the next push.
    """
    with project_lock(root).hold(shared=True):
        plan = plan_push(root, place)
        send_objects(place, plan.missing, report)
        files = {name: file.entry for name, file in plan.listing.files.items()}
        state = write_state(place, plan.previous, "store", project, files) if plan.is_needed else plan.previous
    assert state is not None  # a push without a previous state is needed
    used = {object_name(file.sha256) for file in files.values()}
    unused = sorted(place.sizes(OBJECTS).keys() - used)
    return PushResult(
        place.address, state.number, len(files), len(plan.missing), plan.bytes, unused, plan.listing.notes
    )


def local_history(listing: Listing) -> History:
    """Return the history of the store with these files."""

    def read(name: str) -> bytes:
        source = listing.files[name].source
        return source if isinstance(source, bytes) else source.read_bytes()

    return History(HERE, {name: file.sha256 for name, file in listing.files.items()}, read)


def remote_history(place: Place, state: State) -> History:
    """Return the history of a copy. What is read of it is compared with its hash."""

    def read(name: str) -> bytes:
        sha256 = state.files[name].sha256
        content = place.read(object_name(sha256))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"{place.address}/{object_name(sha256)} was changed. Restore it, or push to another place.")
        return content

    return History(place.address, {name: file.sha256 for name, file in state.files.items()}, read)
