"""The state of a store that its journal describes: which files there must be, and with which hashes."""

from dataclasses import dataclass, field
from pathlib import Path

from ft_pipeline.store.journal_lines import (
    ABANDONED,
    ADOPTED,
    ARTIFACT,
    POINTER,
    REDACTION,
    REMOVAL,
    Entry,
    JournalContent,
)
from ft_pipeline.store.manifest import WEIGHT_KINDS
from ft_pipeline.store.spec import ArtifactReference


@dataclass(frozen=True)
class SignedFile:
    """A file that the journal covers."""

    sha256: str
    entry: Entry
    """The last change of it."""


@dataclass(frozen=True)
class BadChange:
    """A signed change that nothing may make."""

    path: str
    number: int
    message: str


@dataclass
class SignedState:
    """The files after all changes of a journal."""

    files: dict[str, SignedFile] = field(default_factory=dict)
    earlier: dict[str, dict[str, int]] = field(default_factory=dict)
    """Path → earlier hashes of it, with the number of their line: to name what was put back."""
    removed: set[ArtifactReference] = field(default_factory=set)
    """Artifacts whose removal is signed."""
    bad: list[BadChange] = field(default_factory=list)

    def is_signed(self, path: str, sha256: str) -> bool:
        """Return whether the file at a path in the store is as it was signed last."""
        return path in self.files and self.files[path].sha256 == sha256


def state_of(content: JournalContent) -> SignedState:
    """Apply the changes of a journal, in order."""
    state = SignedState()
    for entry in content.entries:
        if entry.change in (REMOVAL, ABANDONED):
            _remove(state, entry)
            continue
        for path, sha256 in entry.files.items():
            _check(state, path, sha256, entry)
            if path in state.files:
                state.earlier.setdefault(path, {})[state.files[path].sha256] = state.files[path].entry.number
            state.files[path] = SignedFile(sha256, entry)
        if entry.change == ADOPTED:
            state.removed |= {(kind, fingerprint) for kind, fingerprint in entry.details.get("removed", ())}
    return state


def _remove(state: SignedState, entry: Entry) -> None:
    for path in entry.files:
        state.files.pop(path, None)
    if "fingerprint" in entry.details:
        state.removed.add((entry.details["kind"], entry.details["fingerprint"]))


def _check(state: SignedState, path: str, sha256: str, entry: Entry) -> None:
    """Add a bad change: a redaction of weights, or a second version of a file that never changes."""
    if entry.change == REDACTION:
        if entry.details.get("files") and path.split("/")[1:2] and path.split("/")[1] in WEIGHT_KINDS:
            state.bad.append(BadChange(path, entry.number, "is a redaction of weights, which no redaction may change"))
        return
    before = state.files.get(path)
    if entry.change != POINTER and before is not None and before.sha256 != sha256:
        what = "manifest" if entry.change == ARTIFACT else "record"
        state.bad.append(BadChange(path, entry.number, f"replaces the {what} of line {before.entry.number}"))


def manifest_path(root: Path, folder: Path) -> str:
    """Return the path in the store `root` of the manifest of an artifact's folder, as journals name it."""
    return (folder / "manifest.json").relative_to(root).as_posix()
