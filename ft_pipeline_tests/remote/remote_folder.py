"""A raw folder with remote files, and its store."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from ft_pipeline.sources import fetch
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.records import SourceRecords
from ft_pipeline.sources.remote_listing import Fetching
from ft_pipeline.sources.snapshot import Snapshot, SnapshotFile
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.blobs import BlobStore

ROWS = [{"text": f"The shop opens at {hour} o'clock on weekdays."} for hour in range(7, 11)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


class RemoteFolder:
    """data/raw/text of a project."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "data" / "raw" / "text"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = ArtifactStore(root / "data" / "store")
        self.reports: list[tuple[str, int, int | None]] = []

    def declare(self, name: str, source: str, **keys: object) -> Path:
        """Write a YAML that names a source."""
        path = self.folder / name
        path.write_text(json.dumps({"source": source, **keys}), encoding="utf-8")
        return path

    def fetch(self) -> Snapshot:
        """The snapshot that a materialization makes."""
        return snapshot_folder(self.folder, self.store, fetching=Fetching(lambda *report: self.reports.append(report)))

    def fetch_one(self) -> SnapshotFile:
        (entry,) = self.fetch().entries
        return entry

    def plan(self) -> Snapshot:
        """The snapshot that a plan computes, which must not use the network."""
        return snapshot_folder(self.folder, self.store)

    def content(self, entry: SnapshotFile) -> bytes:
        assert entry.sha256 is not None
        with BlobStore(self.store.root).reading(entry.sha256, self.store.root / "checked-out") as path:
            return path.read_bytes()

    def records(self) -> SourceRecords:
        return SourceRecords(self.store.root)


def files_with(root: Path, secret: str) -> list[str]:
    """The files below a folder that contain a text, unpacked."""
    found = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".zst":
            content = zstandard.ZstdDecompressor().stream_reader(content).read()
        if secret.encode() in content:
            found.append(path.relative_to(root).as_posix())
    return found


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    monkeypatch.setattr(fetch, "RETRY_PAUSES", (0.0, 0.0))
    return RemoteFolder(tmp_path / "project")


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that any library logs, whatever the user's settings are."""
    with caplog.at_level(logging.DEBUG):
        yield caplog
