"""A stub of the Hugging Face Hub on loopback: the parts of its HTTP interface that reading a data set needs.

It is not the real hub. What it answers follows the client library's code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ft_pipeline_tests.loopback import serving


@dataclass
class HubStub:
    """Data sets by name: commits (the last one is `main`) with their files."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Name → commit → path → content."""
    token: str | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def commit(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        self.commits.setdefault(name, {})[commit] = files

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision, and its files."""
        commits = self.commits.get(name, {})
        commit = next(reversed(commits), "") if revision in ("main", "") else revision
        return (commit, commits[commit]) if commit in commits else None


def _tree(entries: list[dict[str, Any]], folder: str, is_recursive: bool) -> list[dict[str, Any]]:
    """What is in a folder: its files and folders, or everything below it."""
    prefix = f"{folder}/" if folder else ""
    inside = {entry["path"].removeprefix(prefix): entry for entry in entries if entry["path"].startswith(prefix)}
    folders = sorted({path.partition("/")[0] for path in inside if "/" in path})
    listed = [{"type": "directory", "path": prefix + name, "size": 0, "oid": "0" * 40} for name in folders]
    return listed + [entry for path, entry in inside.items() if is_recursive or "/" not in path]


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    """Start a stub."""
    state = HubStub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            state.requests.append((self.command, self.path, self.headers["Authorization"]))
            if state.token and self.headers["Authorization"] != f"Bearer {state.token}":
                self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
                return
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
                self._answer_api("/".join(parts[2:4]), parts[4:], body)
            elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
                self._answer_file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
            else:
                self._send(404, b"{}", {})

        def _answer_api(self, name: str, rest: list[str], body: bytes) -> None:
            kind, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
            found = state.find(name, revision)
            if found is None:
                self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RevisionNotFound"})
                return
            commit, files = found
            entries = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files]
            document: object = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
            if kind == "tree":
                is_recursive = "recursive=true" in self.path.lower()
                document = _tree(entries, "/".join(rest[2:]), is_recursive)
            elif kind == "paths-info":
                asked = parse_qs(body.decode())["paths"]
                document = [entry for entry in entries if entry["path"] in asked]
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _answer_file(self, name: str, revision: str, path: str) -> None:
            found = state.find(name, revision)
            if found is None or path not in found[1]:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
                return
            headers = {"X-Repo-Commit": found[0], "ETag": f'"{path}-{found[0][:8]}"', "Accept-Ranges": "bytes"}
            self._send(200, found[1][path], headers)

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with serving(Handler) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state
