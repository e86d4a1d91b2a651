"""Checks that a folder of the store matches its manifest: its files, their sizes and their hashes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_pipeline.store.manifest import MANIFEST_NAME, BrokenArtifact, expected_files, read_manifest
from ft_pipeline.store.pickles import named_like_a_pickle


def verified_manifest(folder: Path, hash_files: Callable[[Path, list[str]], dict[str, str]]) -> dict[str, Any]:
    """Return the manifest of an artifact's folder after comparing every file with it.

    hash_files: returns the SHA-256 of files of a folder, by name. Raises BrokenArtifact if a file is missing, was
    added, differs from the manifest or is named like a pickle, or if a file or the folder is a link.
    """
    if folder.is_symlink() or folder.parent.is_symlink():
        raise BrokenArtifact("its folder is a link, which may point outside the store")
    manifest = read_manifest(folder)
    entries = expected_files(manifest)
    names = [entry["path"] for entry in entries]
    _require_exactly(names, folder)
    for entry in entries:
        _require_plausible(folder / entry["path"], entry)
    try:
        hashes = hash_files(folder, names)
    except OSError as error:
        raise BrokenArtifact(f"cannot be read: {error}") from error
    for entry in entries:
        if hashes[entry["path"]] != entry["sha256"]:
            raise BrokenArtifact(f"{entry['path']} was changed: its SHA-256 differs from its manifest")
    return manifest


def file_names(folder: Path) -> set[str]:
    """Return the paths of everything below `folder` that is not a folder, relative to it. Links are included."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def _require_exactly(names: list[str], folder: Path) -> None:
    """Raise BrokenArtifact if a file of the folder is not one of `names`, or if one of them is missing."""
    present = file_names(folder)
    if extra := sorted(present - {*names, MANIFEST_NAME}):
        raise BrokenArtifact(f"{extra[0]} is not in its manifest")
    if missing := sorted(set(names) - present):
        raise BrokenArtifact(f"{missing[0]} is missing")


def _require_plausible(file: Path, entry: dict[str, Any]) -> None:
    """Raise BrokenArtifact if a file is named like a pickle, is a link, or does not have the size in its entry."""
    if named_like_a_pickle(entry["path"]):
        raise BrokenArtifact(f"{entry['path']} is a pickle, which could run code when it is loaded")
    if file.is_symlink():
        raise BrokenArtifact(f"{entry['path']} is a link")
    if file.stat().st_size != entry["bytes"]:
        raise BrokenArtifact(f"{entry['path']} does not have the size in its manifest")
