"""What the kinds of sources have in common: limits, progress, and messages without secrets."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from ft_pipeline.errors import UserError
from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.store.atomic_files import translate_write_errors

MAX_DOWNLOAD_BYTES = 64 << 30
"""A larger remote file is refused. It is the limit of an expanded file, too (tables/reading/compressed.py)."""
CHUNK_BYTES = 1 << 20
SECRETS = ("FT_SOURCE_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
"""Environment variables whose values never appear in a message."""

Report = Callable[[int, int | None], None]
"""Called with the bytes that have arrived, and with all bytes; None if their number is unknown."""


@dataclass(frozen=True)
class Revision:
    """The state of a remote file. Equal ids mean equal bytes."""

    identity: str | None
    """Version id, commit, ETag or time of the last change; None if the source has nothing of the kind."""
    version: str | None = None
    """What to ask for to get these bytes, if the source keeps old ones."""


class Access(Protocol):
    """How the files of one scheme are asked for and downloaded."""

    def ask(self, source: RemoteSource) -> Revision:
        """Return the present revision, which costs one small request. UserError if the source does not answer."""

    def download(self, source: RemoteSource, revision: Revision, target: BinaryIO, report: Report) -> Revision:
        """Write the file to `target`, and return the revision that was sent. UserError if it does not arrive whole."""


class TransientError(UserError):
    """A source cannot be read now; the next attempt may succeed."""


def unreachable(source: RemoteSource, what: str, advice: str, kind: type[UserError] = UserError) -> UserError:
    """Return the error of a source that cannot be read: what was answered, and what to do."""
    return kind(f"{source.shown} cannot be read: {without_secrets(what)}. {advice}; an earlier snapshot stays in use.")


def without_secrets(text: str) -> str:
    """Return a text without the values of the variables that contain secrets."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${name}")
    return text


class Sink:
    """Writes what arrives, counts it, and refuses what is too large."""

    def __init__(self, source: RemoteSource, target: BinaryIO, total: int | None, report: Report) -> None:
        self.source, self.target, self.total, self.report = source, target, total, report
        self.size = 0
        self._require_allowed(total or 0)

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self.size += len(chunk)
        self._require_allowed(self.size)
        with translate_write_errors():
            self.target.write(chunk)
        if self.size // CHUNK_BYTES > (self.size - len(chunk)) // CHUNK_BYTES:
            self.report(self.size, self.total)

    def close(self) -> None:
        """Raise UserError if less or more arrived than was announced."""
        if self.total is not None and self.size != self.total:
            raise cut_off(self.source, self.size, self.total)
        self.report(self.size, self.size)

    def _require_allowed(self, size: int) -> None:
        if size > MAX_DOWNLOAD_BYTES:
            raise UserError(
                f"{self.source.shown} is larger than {MAX_DOWNLOAD_BYTES >> 30} GiB. Divide it into several files."
            )


def cut_off(source: RemoteSource, size: int, total: int | None) -> UserError:
    """Return the error of a transfer that ended too early."""
    of_total = f" of {total:,}" if total is not None else ""
    return unreachable(source, f"the transfer ended after {size:,}{of_total} bytes", "Run again", TransientError)
