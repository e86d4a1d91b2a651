"""What a pull fetches, replaces and removes: the difference between the files that are here and those that there must
be at the end of the longer history."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ft_pipeline.copies.histories import History, Order, compare, diverged
from ft_pipeline.copies.places import Place
from ft_pipeline.copies.push import local_history, remote_history
from ft_pipeline.copies.states import CopiedFile, State
from ft_pipeline.copies.store_files import (
    COPY_SUFFIX,
    MANIFESTS,
    RAW_SUFFIX,
    ROWS_OF_RATINGS,
    ROWS_OF_TESTS,
    Listing,
    redaction_note,
)
from ft_pipeline.decide.exposure_ledger import digest_of_rows
from ft_pipeline.errors import UserError
from ft_pipeline.features import choice
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.garbage import snapshot_blobs
from ft_pipeline.store.journal_lines import FILE_NAME, matches
from ft_pipeline.store.manifest import MANIFEST_NAME, expected_files
from ft_pipeline.store.removals import LOG_NAME
from ft_pipeline.store.signing import PUBLIC_KEY_NAME
from ft_pipeline.tables.excluded_rows import FILE as EXCLUDED
from ft_pipeline.tables.excluded_rows import MARKER_START

REDACTION_RECORDS = "redactions/*.json"


@dataclass
class PullPlan:
    """What a pull does."""

    here: History
    there: History
    order: Order
    artifacts: dict[str, dict[str, CopiedFile]] = field(default_factory=dict)
    """Folder in the store → its files, of artifacts that are new, redacted elsewhere, or incomplete here."""
    records: dict[str, CopiedFile] = field(default_factory=dict)
    """Small files that are new or replaced."""
    blobs: dict[str, CopiedFile] = field(default_factory=dict)
    """Raw files, by their name in the copy."""
    removals: list[str] = field(default_factory=list)
    """Recorded files that were removed elsewhere."""
    notes: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        """Whether the copy has a history that goes on from the one here."""
        return self.order == "behind"

    def wanted(self) -> Iterator[CopiedFile]:
        """Yield every file that is fetched."""
        for files in self.artifacts.values():
            yield from files.values()
        yield from self.records.values()
        yield from self.blobs.values()

    def erasures(self) -> list[str]:
        """Return the new records of `ft erase`."""
        return [name for name in self.records if matches(name, (REDACTION_RECORDS,))]


def has_new_erasures(root: Path, state: State) -> bool:
    """Return whether a copy has records of `ft erase` that the store `root` lacks."""
    return any(matches(name, (REDACTION_RECORDS,)) and not (root / name).is_file() for name in state.files)


def plan_pull(root: Path, place: Place, state: State, listing: Listing) -> PullPlan:
    """Return what a pull does. UserError if the histories differ, or if the copy lacks what its history says."""
    here, there = local_history(listing), remote_history(place, state)
    relation = compare(here, there)
    if relation.order == "diverged":
        raise diverged(here, there, relation)
    plan = PullPlan(here, there, relation.order)
    goal = there if plan.goes_on else here
    wanted = goal.wanted()
    for name, sha256 in wanted.items():
        if here.files.get(name) == sha256:
            if matches(name, (MANIFESTS,)) and there.files.get(name) == sha256 and not _is_complete(root / name):
                _fetch_artifact(plan, state, name)
        elif there.files.get(name) != sha256:
            _note_missing(plan, place, name)
        elif matches(name, (MANIFESTS,)):
            _fetch_artifact(plan, state, name)
        else:
            plan.records[name] = state.files[name]
    known = goal.ever_recorded() if goal.lines else here.recorded.keys()
    plan.removals = sorted(name for name in here.recorded if name not in wanted and name in known)
    _plan_blobs(plan, root, state, wanted)
    _plan_unsigned(plan, place, state)
    return plan


def _note_missing(plan: PullPlan, place: Place, name: str) -> None:
    """Refuse a copy that lacks what its own history says. What this store lost is only noted."""
    if plan.goes_on:
        raise UserError(f"{place.address} lacks {name} as its history has it: it was changed. Restore the copy.")
    plan.notes.append(f"{name} is missing here, and the copy does not have it. Run `ft audit --verify`.")


def _fetch_artifact(plan: PullPlan, state: State, manifest: str) -> None:
    folder = manifest.removesuffix(f"/{MANIFEST_NAME}")
    plan.artifacts[folder] = {name: file for name, file in state.files.items() if name.startswith(f"{folder}/")}


def _is_complete(manifest: Path) -> bool:
    """Return whether the files of an artifact are there, with their sizes. Their content is not read."""
    try:
        entries = expected_files(orjson.loads(manifest.read_bytes()))
        return all((manifest.parent / entry["path"]).stat().st_size == entry["bytes"] for entry in entries)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plan_blobs(plan: PullPlan, root: Path, state: State, wanted: dict[str, str]) -> None:
    """Plan the raw files of all snapshots: those that are missing here, or were redacted elsewhere."""
    blobs = BlobStore(root)
    raw = [name for name in wanted if matches(name, ("artifacts/raw_*/*/*/manifest.json",))]
    for sha256 in sorted({sha256 for name in raw for sha256 in _blobs_in(plan, name, wanted[name])}):
        stem = f"blobs/{sha256[:2]}/{sha256}"
        note = redaction_note(sha256)
        is_redacted = note in wanted
        if is_redacted:  # the bytes from before the redaction are replaced, and never fetched
            is_here = blobs.state(sha256) == "redacted"
        else:
            is_here = blobs.path(sha256).is_file() or blobs.referenced_file(sha256) is not None
        if is_here:
            continue
        name = next((name for name in (stem + COPY_SUFFIX, stem + RAW_SUFFIX) if name in state.files), None)
        if name is None or wanted.get(note) != plan.there.files.get(note):
            plan.notes.append(f"The copy does not have the bytes of the raw file {sha256[:16]}.")
        else:
            plan.blobs[name] = state.files[name]


def _blobs_in(plan: PullPlan, name: str, sha256: str) -> set[str]:
    """Return the raw files that a snapshot lists. Its manifest is read where it is."""
    side = next((side for side in (plan.here, plan.there) if side.files.get(name) == sha256), None)
    return snapshot_blobs(orjson.loads(side.read(name))) if side else set()


def _plan_unsigned(plan: PullPlan, place: Place, state: State) -> None:
    """Plan the files that the journal does not cover, and the journal itself."""
    for name, file in state.files.items():
        is_here = plan.here.files.get(name) == file.sha256
        if is_here or not (
            matches(name, (ROWS_OF_TESTS, ROWS_OF_RATINGS)) or name in (FILE_NAME, PUBLIC_KEY_NAME, LOG_NAME, EXCLUDED)
        ):
            continue
        if matches(name, (ROWS_OF_TESTS,)):
            _require_rows_of(place, name, plan.there.read(name))
        elif matches(name, (ROWS_OF_RATINGS,)):
            is_row = choice("copied_row", name.partition("/")[0])
            if is_row is None or not is_row(plan.there.read(name), Path(name).stem):
                raise UserError(f"{name} in {place.address} was changed. Restore the copy.")
        if name == PUBLIC_KEY_NAME and plan.there.journal.keys[-1].public_pem.strip() != plan.there.read(name).strip():
            raise UserError(f"The public key in {place.address} is not the one of its journal. Restore the copy.")
        is_missing = name not in plan.here.files and plan.order == "equal"
        if plan.goes_on or is_missing or name == EXCLUDED:
            plan.records[name] = file


def _require_rows_of(place: Place, name: str, content: bytes) -> None:
    """Raise UserError if a list of test rows is not the one of its name. After an erasure it contains markers."""
    ids = content.decode("utf-8", "replace").split()
    is_redacted = any(identity.startswith(MARKER_START) for identity in ids)
    if not is_redacted and digest_of_rows(ids) != Path(name).stem:
        raise UserError(f"{name} in {place.address} was changed. Restore the copy.")
