"""What is sent: the files of one export folder, and nothing else.

A file is sent only if the export wrote it (SHA256SUMS lists it with its hash) and if its name is that of a file of a
model or of a document about it. So no data goes along that somebody put into the folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.models.file_scan import KEPT_PATTERNS
from ft_pipeline.release.disclosure.folder import BOM, ENVELOPE, SIGNATURE, SUMS
from ft_pipeline.release.export.huggingface import CARD_NAME
from ft_pipeline.store.hashing import sha256_of_file

ALLOWED = (
    *KEPT_PATTERNS,
    *("adapter_config.json", "*.gguf", "gguf.json", "prompt.json", "Modelfile", "Modelfile.*", "README.md"),
    *("bom.cdx.json", "provenance.json", "provenance.dsse.json", "training_rows.txt"),
    *("SHA256SUMS", "model.sig", "signing_key.pub"),
)
"""Names of files that may be sent, in the folder and in its folders."""
_UNLISTED = frozenset({SUMS, SIGNATURE, ENVELOPE})
"""Files that SHA256SUMS does not list."""


@dataclass(frozen=True)
class Parcel:
    """The files that are sent."""

    folder: Path
    hashes: Mapping[str, str]
    """Name in the folder → SHA-256, in the order in which they are sent: SHA256SUMS and the signature last."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return (self.folder / name).stat().st_size

    @property
    def bytes(self) -> int:
        return sum(map(self.size, self.hashes))


def is_export(folder: Path) -> bool:
    """Return whether a folder looks like one that `ft export` wrote."""
    return (folder / SUMS).is_file() and (folder / BOM).is_file() and (folder / CARD_NAME).is_file()


def parcel_of(folder: Path) -> Parcel:
    """Return the files of an export folder. UserError if a file is missing, was changed or added, or is no file
    of a model."""
    listed = _listed(folder)
    present = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    hashes = {}
    for name, path in present.items():
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path} is a link. Export the model again, and push that folder.")
        if name not in listed and name not in _UNLISTED:
            raise UserError(f"{path} is not a file of this export. Remove it, or export the model again.")
        if not any(fnmatch(path.name, pattern) for pattern in ALLOWED):
            raise UserError(f"{path} is not a kind of file that is pushed. Export the model again.")
        hashes[name] = sha256_of_file(path)
        if listed.get(name, hashes[name]) != hashes[name]:
            raise UserError(f"{path} was changed after the export. Export the model again.")
    if missing := sorted(listed.keys() - present.keys()):
        raise UserError(f"{missing[0]} is missing in {folder}. Export the model again.")
    order = sorted(hashes, key=lambda name: (name in _UNLISTED, name == SIGNATURE, name))
    return Parcel(folder, {name: hashes[name] for name in order})


def _listed(folder: Path) -> dict[str, str]:
    """Return the entries of SHA256SUMS: name → hash."""
    if not is_export(folder):
        raise UserError(f"{folder} is not a folder that `ft export` wrote. Export a model first.")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    entries = (line.split("  ", 1) for line in lines if "  " in line)
    return {name: sha256 for sha256, name in entries}
