"""Detects changes in the raw folders: first by file stat, then by content if the stat differs.

A folder is read after it has not changed for one polling interval, so that a file that is being copied is not read
half-written. Its snapshot must have been materialized before, because the automation starts only what a user has run.
A format that the project did not use when its tables were made is an exception: the graph gets its assets only then.
Such formats are materialized in one run, once all their folders have settled: some tables read more than one.

Remote files that are not pinned are asked for a new revision every 15 minutes (sources/fetch.py). After ten
seconds of asking, the rest is left for the next check.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.project import Project
from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.sources.fetch import look_for_revision
from ft_pipeline.sources.local_folder import folder_stamp, last_written, remote_sources
from ft_pipeline.sources.records import SourceRecords
from ft_pipeline.step import STEPS, SpecContext, planned_spec
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.tables.formats.registry import FORMATS

MAX_ASKING_SECONDS = 10
"""Time after which a check asks no other remote source. Dagster ends a sensor that takes a minute."""


@dataclass(frozen=True)
class RawChanges:
    """The result of one check of the folders."""

    stamps: dict[str, str]
    """Format → the stamp of its folder, for the next check."""
    settled: dict[str, str]
    """Snapshot asset that is up to date → the state that was checked, for the next check: folder, snapshot and code."""
    changed: dict[str, str]
    """Snapshot asset that is out of date → a key that identifies this change."""
    new: dict[str, list[str]]
    """Key that identifies the first snapshot of a folder → what is materialized of it, too. Tables that nobody has run
    yet are new, so that no automation follows for them."""
    notes: list[str]
    """What the check waits for, and why."""


def find_raw_changes(project: Project, previous: Mapping[str, str]) -> RawChanges:
    """Check every raw folder. previous: `stamps` and `settled` of the previous check.

    A check in a state that is settled reads only the stat of the raw files, and nothing in the store but the pointer.
    """
    store = ArtifactStore(project.store)
    stamps, settled, changed, new, notes = {}, {}, {}, {}, []
    new_waits = False
    asking_ends = time.monotonic() + MAX_ASKING_SECONDS
    for data_format in FORMATS:
        asset = f"raw_{data_format}"
        stamps[data_format] = folder_stamp(project.raw_folder(data_format))
        pointer, folder = AssetPointers(store.root).read(asset), project.raw_folder(data_format)
        is_new = _is_new(store, data_format)
        if not (is_new or pointer) or not STEPS[asset].is_used(project):
            continue
        sources = remote_sources(folder)
        notes += [f"{asset}: {note}" for note in _look_for_revisions(sources.values(), store.root, asking_ends)]
        # A changed folder is not read yet: a file that is still being copied would be read at every check.
        if stamps[data_format] != previous.get(data_format):
            last_file = last_written(folder) or "no file left"
            observation = f"files changed (last: {last_file})" if data_format in previous else "first check"
            notes.append(f"{asset}: {observation}, waiting until there are no more changes")
            new_waits |= is_new
            continue
        if is_new or pointer is None:
            new[f"first {asset}, {stamps[data_format]}"] = [asset, data_format, "conversations", "quarantine"]
            continue
        state = f"{stamps[data_format]} {pointer.fingerprint} {pointer.when} {STEPS[asset].code_version}"
        if sources:
            state += " " + sha256_of_json(SourceRecords(store.root).revisions(sources.values()))
        if state == previous.get(asset):
            settled[asset] = state
            continue
        try:
            key = _change_key(project, store, asset, pointer)
        except (UserError, OSError) as error:
            notes.append(f"{asset}: {first_line(error)}")
            continue
        if key is None:
            settled[asset] = state
        else:
            changed[asset] = key
    return RawChanges(stamps, settled, changed, {} if new_waits else new, notes)


def _is_new(store: ArtifactStore, data_format: str) -> bool:
    """Return whether the project has tables, but not the table of this format."""
    pointers = AssetPointers(store.root)
    return pointers.read("conversations") is not None and pointers.read(data_format) is None


def _look_for_revisions(sources: Iterable[RemoteSource], store: Path, asking_ends: float) -> list[str]:
    """Ask the sources that are due, and return why some did not answer."""
    notes = []
    for source in sources:
        if time.monotonic() > asking_ends:
            break
        try:
            look_for_revision(source, store)
        except (UserError, OSError) as error:
            notes.append(first_line(error))
    return notes


def _change_key(project: Project, store: ArtifactStore, asset: str, pointer: Pointer) -> str | None:
    """A key for the change since the snapshot was last materialized (`pointer`); None if nothing changed.

    The key contains the time of that materialization. So a change back to earlier content has a new key, too.
    """
    context = SpecContext(project, store)
    latest, spec = context.find(asset), planned_spec(STEPS[asset], context)
    if latest is not None and latest.is_of(spec):
        return None
    return f"{asset} {spec.hash[:16]} after {pointer.when}"
