"""An anchor: a copy of the journal's lines outside the project, in a file or in a git repository.

Somebody who has the key can write another history and sign it. They cannot change the copy. So what they dropped or
rewrote is found, and named: each line of the copy says which files it is about.
"""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.lineage.findings import Finding, FindingCode
from ft_pipeline.store.at_rest import require_as_signed
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.journal_lines import FILE_NAME, read_lines
from ft_pipeline.store.provenance import user_name

GIT_PREFIX = "git+"
"""Begins the name of an anchor in a git repository: git+ssh://host/anchors.git, git+/backup/anchors.git#shop. Without a
name behind the # it is `journal`."""
GIT_SECONDS = 120


@dataclass(frozen=True)
class AnchorResult:
    """What `ft anchor` wrote."""

    target: str
    lines: int
    """Number of lines in the anchor now."""
    new: int
    """Number of lines that were added."""
    head: str
    """SHA-256 of the last line."""


def write_anchor(root: Path, target: str) -> AnchorResult:
    """Add the lines of the journal of the store `root` that the anchor lacks.

    Raises UserError if the store is not signed or not as it was signed, if the anchor is inside the project, or if its
    lines are not the first ones of the journal.
    """
    check = require_as_signed(root)
    content = check.content
    if not check.is_signed:
        raise UserError("This store is not signed, so there is nothing to anchor. Run `ft keys new --reason TEXT`.")
    own = (root / FILE_NAME).read_bytes().splitlines()
    with _opened(target, root) as file:
        anchored = _lines(file)
        if own[: len(anchored)] != anchored:
            raise UserError(
                f"The lines in {target} are not those of this journal. Run `ft audit --verify --anchor {target}`."
            )
        if len(own) > len(anchored):
            with translate_write_errors():
                write_atomically(file, b"".join(line + b"\n" for line in own))
    return AnchorResult(target, len(own), len(own) - len(anchored), content.entries[-1].sha256)


def compare_with_anchor(root: Path, target: str) -> tuple[list[Finding], str]:
    """Return (findings, a note on how far the anchor reaches) for the store `root`. UserError if there is no anchor."""
    path = root / FILE_NAME
    own = path.read_bytes().splitlines() if path.is_file() else []
    with _opened(target, root, only_read=True) as file:
        anchored = _lines(file)
    if not anchored:
        raise UserError(f"There is no anchor in {target}. Write one: ft anchor {target}")
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, anchored, strict=False)))
    content = read_lines(anchored)
    if content.faults or not content.entries:
        raise UserError(f"The anchor {target} is damaged. Write a new one to another place: ft anchor TARGET")
    note = f"The anchor {target} has {len(anchored)} lines, the last of {content.entries[-1].time}."
    code: FindingCode = "dropped_changes" if same == len(own) else "rewritten_changes"
    findings = []
    for entry in content.entries[same:]:
        names = ", ".join(entry.files) or entry.change
        line = f"line {entry.number} of the anchor ({entry.change}, {entry.time}, by {entry.by})"
        findings.append(Finding(code, names, f"{line} is not in the journal"))
    return findings, note


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines() if file.is_file() else []


@contextlib.contextmanager
def _opened(target: str, root: Path, *, only_read: bool = False) -> Iterator[Path]:
    """Yield the file of an anchor. A change of a file in a git repository is pushed at the end."""
    if target.startswith(GIT_PREFIX):
        with tempfile.TemporaryDirectory(prefix="ft-anchor-") as folder:
            clone = Path(folder) / "anchors"
            url, _, name = target.removeprefix(GIT_PREFIX).partition("#")
            file = clone / f"{_require_plain(name or 'journal')}.jsonl"
            _git(Path(folder), "clone", "--quiet", "--", url, str(clone))
            yield file
            if not only_read:
                _push(clone, file.name)
        return
    file = Path(target).expanduser().absolute()
    project = root.parent.parent.resolve()
    if file.resolve().is_relative_to(project):
        raise UserError(f"{target} is in the project. Name a file on another disk, or {GIT_PREFIX}URL.")
    if file.is_dir():
        raise UserError(f"{target} is a folder. Name a file, or {GIT_PREFIX}URL.")
    if not file.parent.is_dir():
        raise UserError(f"The folder {file.parent} does not exist. Create it, or name another file.")
    yield file


def _require_plain(name: str) -> str:
    """Return the name of a copy in a git repository. UserError if it is not a plain name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"{name!r} is not a name for an anchor. Use letters, digits, - and _ after the #.")
    return name


def _push(clone: Path, name: str) -> None:
    author = f"user.name={user_name()}"
    _git(clone, "add", "--", name)
    if not _git(clone, "status", "--porcelain"):
        return
    identity = ("-c", author, "-c", "user.email=ft@localhost", "-c", "commit.gpgsign=false")
    _git(clone, *identity, "commit", "--quiet", "-m", f"Anchor of {name}")
    _git(clone, "push", "--quiet", "origin", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, without prompts, and return its output. Raises UserError with the last line of its error."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed. Install it, or anchor to a file.") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git did not answer within {GIT_SECONDS} seconds. Check the address of the anchor.") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"git {arguments[0]} failed: {lines[-1]}. Check the address of the anchor.")
    return done.stdout.strip()
