"""`ft store pull`: fetch what is new in a copy, verify it, and put it in place.

Everything is fetched and verified in a folder of drafts first. Then, with the journal locked: new artifacts and raw
files, which nothing refers to yet; the journal; and what it says of the rest: records, pointers, redactions, removals.
What a kill leaves in between, the next pull completes, because the journal says what there must be.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.copies.histories import POINTERS, Order
from ft_pipeline.copies.places import Place
from ft_pipeline.copies.pull_plan import PullPlan, has_new_erasures, plan_pull
from ft_pipeline.copies.states import CopiedFile, newest_state
from ft_pipeline.copies.store_files import COPY_SUFFIX, MANIFESTS, blob_of, journal_lock, list_records, redaction_note
from ft_pipeline.copies.transfer import Report, fetch_objects
from ft_pipeline.errors import UserError
from ft_pipeline.store import journal, journal_head
from ft_pipeline.store.artifact_redaction import drafts_folder, hold_alone
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.atomic_files import sync_file, sync_folder, translate_write_errors, write_atomically
from ft_pipeline.store.blobs import BlobStore, decompressed_sha256
from ft_pipeline.store.hashing import hashes_of_files
from ft_pipeline.store.journal_lines import FILE_NAME, matches
from ft_pipeline.store.locks import FileLock, project_lock
from ft_pipeline.store.manifest import MANIFEST_NAME, BrokenArtifact
from ft_pipeline.store.signing import PUBLIC_KEY_NAME, find_key
from ft_pipeline.store.spec import NAME_DIGITS
from ft_pipeline.store.sql_views import write_views
from ft_pipeline.store.verification import verified_manifest
from ft_pipeline.tables.excluded_rows import FILE as EXCLUDED
from ft_pipeline.tables.excluded_rows import merge_excluded

WITH_ERASED_TEXT = ("cache", "work", "drafts")
"""Folders of a store that may contain rows which were erased elsewhere. They can be made again."""
ERASED_ELSEWHERE = (
    "Rows were erased elsewhere. They are never used here again, but data/raw, the teachers' logs and Dagster's "
    "records of this project may still contain them. data/excluded.yaml names the rows: run `ft erase` here, too."
)
NOT_SIGNED = (
    "The copy is not signed, so this new store is not signed either. If it should be, do not use it. To sign it from "
    "now on: ft keys new --reason TEXT"
)


@dataclass(frozen=True)
class PullResult:
    """Result of `ft store pull`."""

    address: str
    number: int
    """Number of the copy's state."""
    order: Order
    """How this store was before: `behind` the copy, `equal`, or `ahead` of it."""
    artifacts: int
    """Number of artifacts that were fetched."""
    removed: int
    """Number of artifacts that were removed, because `ft gc` removed them elsewhere."""
    files: int
    """Number of files that were fetched."""
    bytes: int
    key: str | None
    """Id of the key that signs the store; None if it is not signed."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pull(root: Path, place: Place, report: Report) -> PullResult:
    """Bring the store `root` up to date with a copy. After an interruption, the same call completes it.

    UserError if there is no copy, if it was changed, if the histories differ, or if rows were erased elsewhere while a
    run is in progress here.
    """
    state = newest_state(place, "store")
    if state is None:
        raise UserError(f"There is no copy of a store in {place.address}. Write one: ft store push {place.address}")
    _complete_last_change(root)
    staging = drafts_folder(root) / "pull"
    with _held(root, alone=has_new_erasures(root, state)):
        with journal_lock(root).hold():
            listing = list_records(root)
        plan = plan_pull(root, place, state, listing)
        wanted = list(plan.wanted())
        fetch_objects(place, wanted, staging / "objects", report)
        ready = _assemble(plan, staging)
        _check_blobs(plan, staging / "objects")
        with journal_lock(root).hold(), translate_write_errors():
            if {name: file.sha256 for name, file in list_records(root).files.items()} != dict(plan.here.files):
                raise UserError("Something was recorded in this store meanwhile. Run `ft store pull` again.")
            _apply(root, plan, ready, staging / "objects")
        shutil.rmtree(staging, ignore_errors=True)
    write_views(ArtifactStore(root))
    keys = (plan.there if plan.goes_on else plan.here).journal.keys
    notes = plan.notes + ([ERASED_ELSEWHERE] if plan.erasures() else [])
    if plan.goes_on and plan.here.lines and not keys:
        notes.append(NOT_SIGNED)
    return PullResult(
        address=place.address,
        number=state.number,
        order=plan.order,
        artifacts=len(plan.artifacts),
        removed=sum(matches(name, (MANIFESTS,)) for name in plan.removals),
        files=len(wanted),
        bytes=sum(file.bytes for file in wanted),
        key=keys[-1].key_id if keys else None,
        notes=notes,
    )


def _complete_last_change(root: Path) -> None:
    """Complete a change that a killed process signed and did not make, if this machine has the key."""
    try:
        key = find_key(root)
    except UserError:  # a store that somebody else signs
        return
    if key is not None:
        journal.complete_last_change(root)


@contextlib.contextmanager
def _held(root: Path, *, alone: bool) -> Iterator[None]:
    """Hold the project's lock for a `with` block, and exclude other pulls. alone: runs, too, as `ft erase` does."""
    if alone:
        with hold_alone(root):
            yield
        return
    with project_lock(root).hold(shared=True), FileLock(root / "locks" / "pull", "ft store pull").hold():
        yield


def _assemble(plan: PullPlan, staging: Path) -> dict[str, Path]:
    """Put the fetched artifacts together in a folder of drafts. Return folder in the store → verified folder."""
    shutil.rmtree(staging / "ready", ignore_errors=True)
    ready = {}
    for folder, files in plan.artifacts.items():
        target = staging / "ready" / folder
        with translate_write_errors():
            for name, file in files.items():
                path = target / name.removeprefix(f"{folder}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(staging / "objects" / file.sha256, path)
        try:
            manifest = verified_manifest(target, hashes_of_files)
        except BrokenArtifact as error:
            raise UserError(f"{folder} in {plan.there.place} was changed: {error}. Nothing was used.") from None
        _, kind, spec, content = folder.split("/")
        named = (kind, spec, content.split("-")[0])
        if named != (manifest["kind"], manifest["spec_hash"][:NAME_DIGITS], manifest["fingerprint"][:NAME_DIGITS]):
            raise UserError(f"{folder} in {plan.there.place} is another artifact. Nothing was used.")
        ready[folder] = target
    return ready


def _check_blobs(plan: PullPlan, objects: Path) -> None:
    """Raise UserError if a fetched raw file has neither the bytes of its name nor those that a redaction left."""
    for name, file in plan.blobs.items():
        sha256 = blob_of(name)
        note = redaction_note(sha256)
        redacted = [json.loads(side.read(note))["sha256"] for side in (plan.there, plan.here) if note in side.files]
        path = objects / file.sha256
        actual = decompressed_sha256(path) if name.endswith(COPY_SUFFIX) else file.sha256
        if actual != (redacted[0] if redacted else sha256):
            raise UserError(f"The raw file {sha256[:16]} in {plan.there.place} was changed. Nothing was used.")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync_file(target)


def _apply(root: Path, plan: PullPlan, ready: Mapping[str, Path], objects: Path) -> None:
    """Put everything in place. The order is that of the module's docstring.

    Records of erasures come last: as long as one is missing, the next pull removes erased text again.
    """
    new = [folder for folder in ready if not (root / folder).exists()]
    for folder in new:
        _move(ready[folder], root / folder)
    redacted = {name for name in plan.blobs if redaction_note(blob_of(name)) in plan.records}
    for name in plan.blobs.keys() - redacted:
        _adopt(root, name, plan.blobs[name], objects)
    if plan.goes_on:
        _take_journal(root, plan, objects)
    contents = {name: (objects / file.sha256).read_bytes() for name, file in plan.records.items()}
    erasures = {name: contents.pop(name) for name in plan.erasures()}
    if EXCLUDED in contents:
        merge_excluded(root.parent, contents.pop(EXCLUDED))
    for name in sorted(contents, key=lambda name: (matches(name, (POINTERS,)), name)):  # pointers last
        write_atomically(root / name, contents[name])
    for folder in ready.keys() - new:
        _replace(ready[folder], root / folder)
    for name in redacted:
        _adopt(root, name, plan.blobs[name], objects)
    for name in plan.removals:
        _remove(root / name)
    if erasures:
        _remove_erased_text(root)
    for name in sorted(erasures):
        write_atomically(root / name, erasures[name])


def _take_journal(root: Path, plan: PullPlan, objects: Path) -> None:
    """Write the journal and the public key of the copy. A new, empty store forgets its own."""
    here, there = plan.here, plan.there
    if there.lines[: len(here.lines)] != here.lines:
        journal_head.forget(root)
        for name in (FILE_NAME, PUBLIC_KEY_NAME):
            (root / name).unlink(missing_ok=True)
    for name in (FILE_NAME, PUBLIC_KEY_NAME):
        if name in plan.records:
            write_atomically(root / name, (objects / plan.records.pop(name).sha256).read_bytes())


def _adopt(root: Path, name: str, file: CopiedFile, objects: Path) -> None:
    BlobStore(root).adopt(blob_of(name), objects / file.sha256, compressed=name.endswith(COPY_SUFFIX))


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)


def _replace(source: Path, target: Path) -> None:
    """Replace an artifact's folder. Between the two renames it is missing, which the next pull completes."""
    old = source.with_name(f"{source.name}.old")
    target.rename(old)
    _move(source, target)
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    """Remove a recorded file, or the artifact whose manifest it is."""
    if path.name == MANIFEST_NAME:
        shutil.rmtree(path.parent)
        if not any(path.parent.parent.iterdir()):
            path.parent.parent.rmdir()
    else:
        path.unlink(missing_ok=True)


def _remove_erased_text(root: Path) -> None:
    for folder in WITH_ERASED_TEXT:
        shutil.rmtree(root / folder, ignore_errors=True)
