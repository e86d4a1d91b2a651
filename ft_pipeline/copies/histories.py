"""Two histories of one store, here and in a copy: which one continues the other, and what a store must have afterwards.

A signed store is its journal: the history whose first lines are the other's continues it. A store without a key has
no journal. Its history is the set of its manifests, records and redactions: one continues the other if it has all of
them, redacted or removed ones included.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

import orjson

from ft_pipeline.copies.store_files import MANIFESTS
from ft_pipeline.errors import UserError
from ft_pipeline.store.journal_lines import FILE_NAME, STATE, JournalContent, matches, read_lines
from ft_pipeline.store.manifest import manifest_hashes
from ft_pipeline.store.removals import LOG_NAME
from ft_pipeline.store.signed_state import SignedState, state_of
from ft_pipeline.store.spec import NAME_DIGITS

POINTERS = "current/*.json"
Order = Literal["equal", "ahead", "behind", "diverged"]
"""Whether this history continues the other (`ahead`), or the other from this one (`behind`)."""


@dataclass(frozen=True)
class History:
    """One of two histories of a store."""

    place: str
    """Where it is, for messages."""
    files: Mapping[str, str]
    """Path in the store → SHA-256, of all files."""
    read: Callable[[str], bytes] = field(compare=False)
    """Returns the content of one of them."""

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines of the journal; none if the store is not signed."""
        return self.read(FILE_NAME).splitlines() if FILE_NAME in self.files else []

    @cached_property
    def journal(self) -> JournalContent:
        """The journal, verified. UserError if a line is not signed, or does what no change may do."""
        content = read_lines(self.lines)
        faults = [f"line {fault.number} {fault.message}" for fault in content.faults]
        faults += [f"{bad.path} {bad.message}" for bad in state_of(content).bad]
        if faults:
            raise UserError(
                f"The journal in {self.place} was changed: {faults[0]}. Run `ft audit --verify`, restore it."
            )
        return content

    @cached_property
    def recorded(self) -> dict[str, str]:
        """The files that the journal covers, or would cover: path → SHA-256."""
        return {path: sha256 for path, sha256 in self.files.items() if matches(path, STATE)}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded, except perhaps the key of a new store."""
        return not self.recorded and len(self.lines) <= 1

    @cached_property
    def signed_state(self) -> SignedState:
        """What there must be after the last line of the journal."""
        return state_of(self.journal)

    def wanted(self) -> dict[str, str]:
        """Return the files of STATE that there must be at the end of this history: path → SHA-256."""
        if not self.lines:
            return self.recorded
        return {path: file.sha256 for path, file in self.signed_state.files.items()}

    def ever_recorded(self) -> set[str]:
        """Return the paths that the history knows, also of what was removed. Without a journal these are its files."""
        return {path for entry in self.journal.entries for path in entry.files} if self.lines else set(self.recorded)

    @cached_property
    def removed(self) -> set[tuple[str, str]]:
        """Kind and first digits of the fingerprint of what `ft gc` removed."""
        lines = self.read(LOG_NAME).splitlines() if LOG_NAME in self.files else []
        return {(str(entry.get("kind")), str(entry.get("fingerprint"))[:NAME_DIGITS]) for entry in map(_parsed, lines)}

    def head(self) -> str:
        """Return the last line, as a message names it."""
        if not self.lines:
            return f"{self.place} has {len(self.recorded)} records, which are not signed"
        last = self.journal.entries[-1]
        return f"{self.place} ends at line {last.number} ({last.sha256[:16]}, {last.time}, by {last.by})"


@dataclass(frozen=True)
class Relation:
    """How this history relates to another one."""

    order: Order
    common: int = 0
    """Number of equal first lines of two journals."""
    only_here: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()
    """Of stores that are not signed: what only one of them has."""


def compare(here: History, there: History) -> Relation:
    """Return how the history here relates to the one there."""
    if here.is_empty or there.is_empty:
        return Relation(_order(not there.is_empty, not here.is_empty))
    if here.lines and there.lines:
        return _compare_journals(here, there)
    only_here, only_there = tuple(_lacking(there, here)), tuple(_lacking(here, there))
    order = _order(bool(only_there), bool(only_here))
    if bool(here.lines) != bool(there.lines):  # signatures are never dropped: somebody could have removed the journal
        signed_is: Order = "ahead" if here.lines else "behind"
        order = signed_is if order in ("equal", signed_is) else "diverged"
    elif order == "equal":
        order = _compare_pointers(here, there)
    return Relation(order, only_here=only_here, only_there=only_there)


def _order(there_has_more: bool, here_has_more: bool) -> Order:
    if there_has_more and here_has_more:
        return "diverged"
    return "behind" if there_has_more else "ahead" if here_has_more else "equal"


def _compare_journals(here: History, there: History) -> Relation:
    pairs = zip(here.lines, there.lines, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Relation(_order(len(there.lines) > common, len(here.lines) > common), common)


def _lacking(one: History, other: History) -> Iterator[str]:
    """Yield what `other` has and `one` neither has nor had, by the path in the store. Pointers may move back, so they
    do not count."""
    known = (
        {(path, sha256) for entry in one.journal.entries for path, sha256 in entry.files.items()}
        if one.lines
        else set()
    )
    for path, sha256 in other.recorded.items():
        has = one.files.get(path) == sha256 or (path, sha256) in known or matches(path, (POINTERS,))
        if not has and not _superseded(one, path, sha256):
            yield path
    if not one.lines:
        yield from (f"the removal of {kind} {digits}" for kind, digits in sorted(other.removed - one.removed))


def _superseded(one: History, path: str, sha256: str) -> bool:
    """Return whether `one` has the manifest redacted, or has removed its artifact."""
    if not matches(path, (MANIFESTS,)):
        return False
    _, kind, _, content, _ = path.split("/")
    if (kind, content[:NAME_DIGITS]) in one.removed:
        return True
    return path in one.files and sha256 in manifest_hashes(_parsed(one.read(path)), None)


def _compare_pointers(here: History, there: History) -> Order:
    """Compare the times of the latest pointers that differ."""
    differing = {path for path in {*here.recorded, *there.recorded} if here.files.get(path) != there.files.get(path)}
    if not differing:
        return "equal"
    times = [
        max((str(_parsed(side.read(path)).get("when")) for path in differing if path in side.files), default="")
        for side in (here, there)
    ]
    return "ahead" if times[0] >= times[1] else "behind"


def _parsed(content: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the content is something else, as a damaged file is."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def diverged(here: History, there: History, relation: Relation) -> UserError:
    """Return the error for two histories of which none continues the other."""
    if here.lines and there.lines:
        common = f"they are the same up to line {relation.common}" if relation.common else "they have no line in common"
        what = f"{here.head()}; {there.head()}; {common}"
    elif here.lines or there.lines:
        signed, other = (here, there) if here.lines else (there, here)
        more = (relation.only_there if here.lines else relation.only_here)[0]
        what = f"{signed.head()}; {other.head()}; only the latter has {more}"
    else:
        what = f"only {here.place} has {relation.only_here[0]}, and only {there.place} has {relation.only_there[0]}"
    return UserError(
        f"The two stores have different histories: {what}. To keep the copy's, pull it into an empty project "
        "(`ft init`) and run again what it lacks. To keep this one, push it to another place."
    )
