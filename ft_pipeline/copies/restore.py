"""`ft restore`: a project folder as it was backed up."""

import contextlib
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.copies.backup import KEYS, STORE
from ft_pipeline.copies.places import Place
from ft_pipeline.copies.states import State, newest_state
from ft_pipeline.copies.store_files import RAW_SUFFIX, blob_of
from ft_pipeline.copies.transfer import Report, fetch_objects
from ft_pipeline.errors import UserError
from ft_pipeline.project import has_separate_database
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.signing import keys_folder
from ft_pipeline.store.sql_views import write_views


@dataclass(frozen=True)
class RestoreResult:
    """Result of `ft restore`."""

    project: str
    """The folder."""
    number: int
    made: str
    """When the backup was made."""
    files: int
    bytes: int
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def restore(place: Place, target: Path, report: Report, number: int | None = None) -> RestoreResult:
    """Write the project folder `target`, which is new or empty. It appears complete, or not at all.

    number: the state to restore; default: the newest. After an interruption, the same call completes it. UserError if
    the folder is not empty, or if the backup was changed.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty. Name a new folder.")
    state = newest_state(place, "project", number)
    if state is None:
        raise UserError(f"There is no backup in {place.address}. Make one: ft backup {place.address}")
    if hidden := [name for name in state.files if f"/{name}".count("/.")]:
        raise UserError(f"{place.address} was changed: no backup has {hidden[0]}. Nothing was used.")
    staging = target.with_name(f".{target.name}.restoring")
    fetch_objects(place, state.files.values(), staging / "objects", report)
    with translate_write_errors():
        project = _assemble(state, staging)
        keys = _restore_keys(project)
        _compress_raw_files(project, state)
        target.mkdir(parents=True, exist_ok=True)
        project.replace(target)
        shutil.rmtree(staging)
    notes = [f"The private key was restored: {path}" for path in keys]
    if has_separate_database(target / "dagster_home"):
        notes.append("Dagster's run history is in a separate database (dagster.yaml). Restore it with its own tools.")
    write_views(ArtifactStore(target / STORE))
    size = sum(file.bytes for file in state.files.values())
    return RestoreResult(str(target), state.number, state.made, len(state.files), size, notes)


def _assemble(state: State, staging: Path) -> Path:
    """Put the fetched files under their names, and return that folder. Equal files become separate files."""
    project = staging / "project"
    shutil.rmtree(project, ignore_errors=True)
    linked = set()
    for name, file in state.files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.sha256 in linked:
            shutil.copyfile(staging / "objects" / file.sha256, path)
        else:
            os.link(staging / "objects" / file.sha256, path)
            linked.add(file.sha256)
    return project


def _compress_raw_files(project: Path, state: State) -> None:
    """Store the raw files that the backed-up store only referred to."""
    for name in state.files:
        if name.startswith(f"{STORE}/blobs/") and name.endswith(RAW_SUFFIX):
            BlobStore(project / STORE).adopt(blob_of(name), project / name, compressed=False)
            (project / name).unlink()


def _restore_keys(project: Path) -> list[Path]:
    """Move private keys to the user's folder of keys. A key that is there is not changed."""
    restored = []
    for path in sorted((project / KEYS).glob("*.pem")):
        target = keys_folder() / path.name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError), open(target, "xb", opener=_only_for_the_owner) as file:
            file.write(path.read_bytes())
            restored.append(target)
    shutil.rmtree(project / KEYS, ignore_errors=True)
    return restored


def _only_for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
