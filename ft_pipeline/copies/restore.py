"""`ft restore`: a project folder as it was backed up."""

import errno
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.copies.backup import KEYS, STORE, is_left_out
from ft_pipeline.copies.places import Place, missing_object
from ft_pipeline.copies.states import OBJECTS, State, newest_state, object_name
from ft_pipeline.copies.store_files import RAW_SUFFIX, blob_of
from ft_pipeline.copies.transfer import ChangedCopy, Report, fetch_objects
from ft_pipeline.errors import UserError
from ft_pipeline.project import has_separate_database
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.blobs import BlobStore, ChangedBlob
from ft_pipeline.store.signature_check import check_signatures
from ft_pipeline.store.signing import (
    ID_DIGITS,
    PUBLIC_KEY_NAME,
    KeyIdError,
    key_id_of,
    keys_folder,
    read_key,
    read_public_key,
)
from ft_pipeline.store.sql_views import write_views

_IMPOSSIBLE_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a document that somebody made to do harm raises where its shape is not checked."""
_OF_AN_EARLIER_STATE = ("dropped_changes", "rewritten_changes")
"""Faults of a journal that is older than what this machine signed."""


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
    the folder is not empty, if its disk is too small, or if the backup was changed.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty. Name a new folder.")
    state = newest_state(place, "project", number)
    if state is None:
        raise UserError(f"There is no backup in {place.address}. Make one: ft backup {place.address}")
    if foreign := [name for name in state.files if is_left_out(name)]:
        raise ChangedCopy(place.address, f"no backup has {foreign[0]}")
    staging = target.with_name(f".{target.name}.restoring")
    _require_sizes(place, state)
    _require_space(state, staging)
    try:
        notes = _put_in_place(place, state, staging, target, report)
    except ChangedCopy:
        shutil.rmtree(staging)
        raise
    if has_separate_database(target / "dagster_home"):
        notes.append("Dagster's run history is in a separate database (dagster.yaml). Restore it with its own tools.")
    try:
        write_views(ArtifactStore(target / STORE))
    except (OSError, *_MALFORMED) as error:
        message = (
            f"{target} was restored, but {STORE} cannot be read ({type(error).__name__}). Run `ft audit --verify`."
        )
        raise UserError(message) from error
    size = sum(file.bytes for file in state.files.values())
    return RestoreResult(str(target), state.number, state.made, len(state.files), size, notes)


def _put_in_place(place: Place, state: State, staging: Path, target: Path, report: Report) -> list[str]:
    """Fetch the files and make them the folder `target`. Return what the user should know."""
    with translate_write_errors():
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)  # a private key may be among the objects
    fetch_objects(place, state.files.values(), staging / "objects", report)
    with translate_write_errors():
        project = _assemble(place, state, staging)
        _compress_raw_files(place, state, project)
        key = _take_key(place, project)
        target.mkdir(parents=True, exist_ok=True)
        notes = [f"The private key was restored: {key[0]}"] if key and _write_key(*key) else []
        project.replace(target)
        shutil.rmtree(staging)
    return notes


def _require_sizes(place: Place, state: State) -> None:
    """Raise UserError if an object is missing, or does not have the size in the list: it is not even fetched."""
    present = place.sizes(OBJECTS)
    for name, file in state.files.items():
        size = present.get(object_name(file.sha256))
        if size is None:
            raise missing_object(place.address, object_name(file.sha256))
        if size != file.bytes:
            raise ChangedCopy(place.address, f"{name} does not have the size in its list of files")


def _require_space(state: State, staging: Path) -> None:
    """Raise UserError if the disk is too small. What an interrupted call fetched is not counted again."""
    needed = sum(file.bytes for file in state.files.values())
    fetched = sum(path.stat().st_size for path in (staging / "objects").glob("*"))
    free = shutil.disk_usage(next(folder for folder in staging.parents if folder.is_dir())).free
    if needed - fetched > free:
        message = f"The project needs {needed / 1e9:.3f} GB, but {(free + fetched) / 1e9:.3f} GB are free."
        raise UserError(f"{message} Name a folder on a larger disk.")


def _assemble(place: Place, state: State, staging: Path) -> Path:
    """Put the fetched files under their names, and return that folder. Equal files become separate files."""
    project = staging / "project"
    shutil.rmtree(project, ignore_errors=True)
    linked = set()
    for name, file in state.files.items():
        path = project / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.sha256 in linked:
                shutil.copyfile(staging / "objects" / file.sha256, path)
            else:
                os.link(staging / "objects" / file.sha256, path)
                linked.add(file.sha256)
        except (OSError, UnicodeEncodeError) as error:
            if isinstance(error, OSError) and error.errno not in _IMPOSSIBLE_NAME:
                raise
            raise ChangedCopy(place.address, f"no file can have the name {name[:100]!a} beside the others") from None
    return project


def _compress_raw_files(place: Place, state: State, project: Path) -> None:
    """Store the raw files that the backed-up store only referred to. ChangedCopy if one is not what its
    name says."""
    for name in state.files:
        if name.startswith(f"{STORE}/blobs/") and name.endswith(RAW_SUFFIX):
            try:
                BlobStore(project / STORE).adopt(blob_of(name), project / name, compressed=False)
            except (ChangedBlob, FileExistsError, IsADirectoryError, NotADirectoryError):
                raise ChangedCopy(place.address, f"{name} is not the raw file that its name says") from None
            (project / name).unlink()


def _take_key(place: Place, project: Path) -> tuple[Path, bytes] | None:
    """Remove the private key of the store from the project, and return its path in the user's folder of keys, and its
    content; None if there is none. Other files in that folder are the project's own.

    ChangedCopy if it is not the key that signed the journal; UserError if the user has another one of that name.
    """
    public_pem = read_public_key(project / STORE)
    if public_pem is None or not (project / KEYS).is_dir():
        return None
    try:
        name = f"{key_id_of(public_pem)[:ID_DIGITS]}.pem"
    except KeyIdError:
        raise ChangedCopy(place.address, f"{STORE}/{PUBLIC_KEY_NAME} is not a public key") from None
    path, own = project / KEYS / name, keys_folder() / name
    if not path.is_file():
        return None
    try:
        check = check_signatures(project / STORE, public_pem, files=False)
        signed_here = read_key(path).key_id == key_id_of(public_pem)
    except (UserError, *_MALFORMED):
        signed_here = False
    if not signed_here or any(fault.code not in _OF_AN_EARLIER_STATE for fault in check.changes):
        raise ChangedCopy(place.address, f"its journal is not signed with {KEYS}/{name}")
    content = path.read_bytes()
    if own.exists() and own.read_bytes() != content:
        raise UserError(f"{own} is another key. Move it away, and restore again.")
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return own, content


def _write_key(path: Path, content: bytes) -> bool:
    """Write a private key, unless it is there. Return whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with open(path, "xb", opener=_only_for_the_owner) as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _only_for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
