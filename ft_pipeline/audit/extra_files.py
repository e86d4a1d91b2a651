"""Files in the folders of records, artifacts and raw files that the pipeline does not write.

Nothing reads them. An auditor wants to know that they are there. Files inside an artifact are compared with its
manifest (verify.py).
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ft_pipeline.audit.findings import Finding
from ft_pipeline.store.journal_lines import STATE
from ft_pipeline.store.ledger import RECORD_NAME

_BLOBS = ("*.zst", "*.zst.damaged", "*.reference.json", "*.redacted.json")
_DEPTH_OF_ARTIFACTS = 4
"""artifacts/KIND/SPEC/CONTENT: what is deeper belongs to an artifact."""


def find_extra_files(root: Path) -> list[Finding]:
    """Return a finding for each file of the store `root` in a place where the pipeline writes none.

    Only folders with records, artifacts and raw files are searched. Files whose name begins with a dot are those of a
    write that did not end.
    """
    folders = sorted({pattern.split("/", 1)[0] for pattern in STATE})
    return [
        Finding("extra_file", path.relative_to(root).as_posix(), "is not a file that the pipeline writes")
        for folder in folders
        for path in _files_below(root / folder, root)
        if not path.name.startswith(".") and not _is_expected(path, path.relative_to(root))
    ]


def _files_below(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `folder` in order, without those of artifacts. Folders that are links are yielded, too."""
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        yield folder
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() or not path.is_dir() or path.suffix == ".json":
            yield path
        elif path.relative_to(root).parts[0] != "artifacts" or len(path.relative_to(root).parts) < _DEPTH_OF_ARTIFACTS:
            yield from _files_below(path, root)


def _is_expected(path: Path, place: Path) -> bool:
    """Return whether the pipeline writes such a file. place: the path in the store."""
    if place.parts[0] == "artifacts":  # deeper ones are found there
        return len(place.parts) >= _DEPTH_OF_ARTIFACTS
    if path.is_symlink() or not path.is_file():
        return False
    if place.parts[:2] in (("exposures", "rows"), ("ratings", "rows")):
        return len(place.parts) == 3
    if place.parts[0] == "blobs":
        return len(place.parts) == 3 and any(fnmatchcase(place.name, pattern) for pattern in _BLOBS)
    if place.parts[0] == "exposures" and place.name.endswith(".result.json"):
        return len(place.parts) == 2 and RECORD_NAME.match(place.name.replace(".result", "")) is not None
    return len(place.parts) == 2 and (place.match("current/*.json") or RECORD_NAME.match(place.name) is not None)
