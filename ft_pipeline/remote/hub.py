"""Data sets of the Hugging Face Hub: one file of them, or all rows of one split.

A file is downloaded like that of a web server. A whole data set is read by `datasets`, in a process of its own, because
its rows may be in many files of any kind, and the library must not be in the process of the graph. HF_TOKEN is the only
token that is used: a token that was stored by `hf auth login` is not.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import orjson

from ft_pipeline.remote.web import ASK_TIMEOUT, advice_for, checked, download, read_small, request
from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.sources.transfer import CHUNK_BYTES, Report, Revision, Sink, unreachable

TOKEN, ENDPOINT, OFFLINE = "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"
READER = "ft_pipeline.remote.hub_reader"
"""The module that reads a whole data set."""


class HubAccess:
    """Files and data sets that are named by an hf:// URL."""

    def ask(self, source: RemoteSource) -> Revision:
        """Return the commit of the branch, tag or commit that the YAML names; by default that of `main`."""
        _require_online(source)
        url = f"{_endpoint()}/api/datasets/{source.hub_data.repository}/revision/{quote(source.version or 'main', '')}"
        with request(source, "GET", f"{url}?expand=sha", os.environ.get(TOKEN), ASK_TIMEOUT) as answer:
            commit = _commit_in(read_small(checked(source, answer, advice_for(answer, TOKEN)), source))
        if commit is None:
            raise unreachable(source, "the hub names no commit", f"Check {ENDPOINT}")
        return Revision(commit, commit)

    def download(self, source: RemoteSource, revision: Revision, target: BinaryIO, report: Report) -> Revision:
        """Write the file, or the rows of the split as Parquet, to `target`."""
        _require_online(source)
        commit = revision.version or self.ask(source).version or "main"
        data = source.hub_data
        if data.path:
            url = f"{_endpoint()}/datasets/{data.repository}/resolve/{quote(commit, '')}/{quote(data.path)}"
            download(source, url, os.environ.get(TOKEN), target, report, TOKEN)
        else:
            _read_split(source, commit, target, report)
        return Revision(commit, commit)


def _endpoint() -> str:
    return (os.environ.get(ENDPOINT) or "https://huggingface.co").rstrip("/")


def _require_online(source: RemoteSource) -> None:
    if os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE"):
        raise unreachable(source, f"{OFFLINE} is set", f"Unset {OFFLINE} and run again")


def _commit_in(content: bytes) -> str | None:
    try:
        document: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    commit = document.get("sha") if isinstance(document, dict) else None
    return commit if isinstance(commit, str) and commit else None


def _read_split(source: RemoteSource, commit: str, target: BinaryIO, report: Report) -> None:
    """Read the split in a process of its own, and copy the Parquet file that it writes."""
    folder = Path(target.name).parent
    with tempfile.TemporaryDirectory(prefix="hub-", dir=folder) as cache:
        rows = Path(cache) / "rows.parquet"
        job = {
            "repository": source.hub_data.repository,
            "commit": commit,
            "subset": source.subset,
            "split": source.split,
            "cache": cache,
            "rows": str(rows),
        }
        environment = {**os.environ, "HF_HUB_CACHE": f"{cache}/hub", "HF_HUB_DISABLE_TELEMETRY": "1"}
        reader = subprocess.run(
            [sys.executable, "-P", "-m", READER],
            input=orjson.dumps(job),
            env=environment,
            capture_output=True,
            check=False,
        )
        if reader.returncode:
            lines = reader.stderr.decode("utf-8", "replace").strip().splitlines() or ["the process ended"]
            raise unreachable(source, lines[-1].rstrip("."), "Correct the YAML, or run again")
        sink = Sink(source, target, rows.stat().st_size, report)
        with rows.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                sink.write(chunk)
        sink.close()
