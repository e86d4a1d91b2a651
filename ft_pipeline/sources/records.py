"""What is known about each remote source, in the store: sources/<key>.json. Plans read it instead of the network.

Losing a record costs another download. It contains no secret: URLs are recorded without the values of their queries.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.store.atomic_files import translate_write_errors, write_atomically
from ft_pipeline.store.blobs import BlobStore


@dataclass(frozen=True)
class SourceRecord:
    """One remote source: what was downloaded last, and what its source has now."""

    source: str
    """The URL, as messages show it."""
    revision: str
    """The first revision that had these bytes. Snapshots list it."""
    current: str
    """The last revision that is known to have these bytes."""
    latest: str
    """The newest revision that the source named. Another one than `current` is not downloaded yet."""
    sha256: str
    bytes: int
    asked: float
    """When the source was last asked, in seconds since 1970."""

    @property
    def is_outdated(self) -> bool:
        return self.latest != self.current


class SourceRecords:
    """The records of a store."""

    def __init__(self, store: Path) -> None:
        self.folder = store / "sources"
        self._blobs = BlobStore(store)

    def read(self, source: RemoteSource) -> SourceRecord | None:
        """Return the record of a source; None if it was never downloaded, or its record cannot be read."""
        try:
            return SourceRecord(**json.loads(self._path(source).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, source: RemoteSource, record: SourceRecord) -> None:
        """Replace the record of a source."""
        with translate_write_errors():
            write_atomically(self._path(source), json.dumps(asdict(record), indent=1).encode())

    def revisions(self, sources: Iterable[RemoteSource]) -> list[str]:
        """Return a text for each source, which changes if a plan would find another state of the source."""
        return [f"{source.key} {self._state(self.read(source))}" for source in sources]

    def _state(self, record: SourceRecord | None) -> str:
        if record is None:
            return "none"
        return f"{record.sha256} {record.latest} {self._blobs.is_redacted(record.sha256)}"

    def _path(self, source: RemoteSource) -> Path:
        return self.folder / f"{source.key}.json"
