"""The state of a store that its journal describes: which files there must be, and with which hashes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ft_pipeline.store.journal_lines import (
    ABANDONED,
    ADOPTED,
    ARTIFACT,
    POINTER,
    REDACTION,
    REMOVAL,
    STATE,
    Entry,
    JournalContent,
    matches,
)
from ft_pipeline.store.manifest import WEIGHT_KINDS
from ft_pipeline.store.spec import NAME_DIGITS, ArtifactReference

_PATTERNS_OF = {
    ADOPTED: STATE,
    ARTIFACT: ("artifacts/*/*/*/manifest.json",),
    ABANDONED: ("artifacts/*/*/*/manifest.json",),
    POINTER: ("current/*.json",),
    REDACTION: ("artifacts/*/*/*/manifest.json", "blobs/*/*.redacted.json"),
    REMOVAL: ("artifacts/*/*/*/manifest.json", "current/*.json", "blobs/*/*.redacted.json"),
}
"""Change → patterns of the files that it may name. Changes of ledgers name records in the folder of that name."""
_REPLACING = (ADOPTED, POINTER, REDACTION)
"""Changes that may give a file another content."""


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
    """Artifacts whose removal is signed, and that were not made again."""
    bad: list[BadChange] = field(default_factory=list)


def state_of(content: JournalContent) -> SignedState:
    """Apply the changes of a journal, in order."""
    state = SignedState()
    last: Entry | None = None
    for entry in content.entries:
        state.bad += _bad_changes(state, entry, last)
        if entry.change in (REMOVAL, ABANDONED):
            _remove(state, entry)
        else:
            for path, sha256 in entry.files.items():
                if path in state.files:
                    state.earlier.setdefault(path, {})[state.files[path].sha256] = state.files[path].entry.number
                state.files[path] = SignedFile(sha256, entry)
        if entry.change == ADOPTED:
            state.removed |= {(kind, fingerprint) for kind, fingerprint in entry.details.get("removed", ())}
        last = entry
    made_again = {_content_of(path) for path in state.files if matches(path, _PATTERNS_OF[ARTIFACT])}
    state.removed = {one for one in state.removed if (one[0], one[1][:NAME_DIGITS]) not in made_again}
    return state


def _content_of(manifest: str) -> tuple[str, str]:
    """Return the kind and the first digits of the fingerprint in the path of a manifest."""
    _, kind, _, content, _ = manifest.split("/")
    return kind, content[:NAME_DIGITS]


def _remove(state: SignedState, entry: Entry) -> None:
    for path in entry.files:
        state.files.pop(path, None)
    if {"kind", "fingerprint"} <= entry.details.keys():
        state.removed.add((entry.details["kind"], entry.details["fingerprint"]))


def _bad_changes(state: SignedState, entry: Entry, last: Entry | None) -> Iterator[BadChange]:
    """Yield what a change does that nothing may do, even with the key: records and manifests never change, records are
    never removed, no redaction touches weights, and each kind of change has its own files."""
    for path, sha256 in entry.files.items():
        signed = state.files.get(path)
        if not matches(path, _PATTERNS_OF.get(entry.change, (f"{entry.change}/*.json",))):
            yield BadChange(path, entry.number, f"is not a file that a change of the kind {entry.change!r} makes")
        elif entry.change == REDACTION and entry.details.get("files") and path.split("/")[1] in WEIGHT_KINDS:
            yield BadChange(path, entry.number, "is a redaction of weights, which no redaction may change")
        elif entry.change in (REMOVAL, ABANDONED) and (signed is None or signed.sha256 != sha256):
            yield BadChange(path, entry.number, "is removed, but it is not the file that was signed before")
        elif entry.change == ABANDONED and (last is None or last.change != ARTIFACT or path not in last.files):
            yield BadChange(path, entry.number, "is given up, but it was not the last change")
        elif entry.change not in (*_REPLACING, REMOVAL, ABANDONED) and signed is not None and signed.sha256 != sha256:
            what = "manifest" if entry.change == ARTIFACT else "record"
            yield BadChange(path, entry.number, f"replaces the {what} of line {signed.entry.number}")
