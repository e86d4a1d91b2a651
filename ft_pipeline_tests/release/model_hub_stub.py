"""A stub of the Hugging Face Hub on loopback: the parts of its HTTP interface that a push of a model needs.

It is not the real hub. What it answers follows the client library's code.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from ft_pipeline_tests.loopback import serving

COMMIT = "c" * 40
LARGE = (".safetensors", ".gguf")


@dataclass
class Repository:
    """A repository: its branches with their files."""

    private: bool = True
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b""}})


@dataclass
class ModelHub:
    """The stub, and all that it was sent."""

    url: str = ""
    token: str = "hf_right"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256."""
    uploads: list[str] = field(default_factory=list)
    """SHA-256 of each large file, as often as it was sent."""
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """The end of a path → the status with which it is refused."""
    creates_public: bool = False
    ignored: frozenset[str] = frozenset()
    """Files that the repository's .gitignore names."""

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return {path: text for path, text in self.repositories[name].branches[branch].items() if path[0] != "."}


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Start a stub."""
    hub = ModelHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def do_PUT(self) -> None:
            self._handle()

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, body))
            for end, status in hub.refused.items():
                if path.endswith(end):
                    return self._send({"error": "refused"}, status)
            if self.command == "PUT":  # to storage: its address is the permission
                return self._store(path.rpartition("/")[2], body)
            if self.headers["Authorization"] != f"Bearer {hub.token}":
                return self._send({"error": "Invalid credentials"}, 401)
            parts = path.strip("/").split("/")
            if path == "/api/whoami-v2":
                return self._send({"name": "acme", "type": "user", "orgs": []})
            if path == "/api/validate-yaml":
                return self._send({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if path.endswith(".git/info/lfs/objects/batch"):
                return self._batch(json.loads(body))
            return self._model("/".join(parts[2:4]), parts[4:], body)

        def _store(self, sha256: str, body: bytes) -> None:
            assert hashlib.sha256(body).hexdigest() == sha256
            hub.objects[sha256] = body
            hub.uploads.append(sha256)
            self._send({})

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted.get('organization') or 'acme'}/{wanted['name']}"
            if name in hub.repositories:
                return self._send({"error": "exists"}, 409)
            private = wanted.get("private") or wanted.get("visibility") == "private"
            hub.repositories[name] = Repository(bool(private) and not hub.creates_public)
            return self._send({"url": f"{hub.url}/{name}", "name": name})

        def _batch(self, wanted: dict[str, Any]) -> None:
            actions = {
                entry["oid"]: {"upload": {"href": f"{hub.url}/storage/{entry['oid']}"}} for entry in wanted["objects"]
            }
            objects = [
                {**entry, **({} if entry["oid"] in hub.objects else {"actions": actions[entry["oid"]]})}
                for entry in wanted["objects"]
            ]
            self._send({"transfer": "basic", "objects": objects})

        def _model(self, name: str, rest: list[str], body: bytes) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self._send({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            kind, branch = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
            if kind == "branch":
                repository.branches[branch] = dict(repository.branches["main"])
                return self._send({})
            files = repository.branches.get(branch)
            if files is None:
                return self._send({"error": "no branch"}, 404, {"X-Error-Code": "RevisionNotFound"})
            if kind == "preupload":
                asked = json.loads(body)["files"]
                modes = [{"path": file["path"], **_mode(file["path"], hub)} for file in asked]
                return self._send({"files": modes})
            if kind == "commit":
                for line in body.splitlines():
                    _apply(files, json.loads(line), hub)
                return self._send({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
            if kind == "tree":
                entries = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files]
                return self._send(entries)
            siblings = [{"rfilename": path} for path in files]
            return self._send({"id": name, "sha": COMMIT, "private": repository.private, "siblings": siblings})

        def _send(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with serving(Handler) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub


def _mode(path: str, hub: ModelHub) -> dict[str, Any]:
    return {"uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": path in hub.ignored}


def _apply(files: dict[str, bytes], operation: dict[str, Any], hub: ModelHub) -> None:
    value = operation["value"]
    if operation["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
    elif operation["key"] == "lfsFile":
        files[value["path"]] = hub.objects[value["oid"]]
    elif operation["key"] == "deletedFile":
        del files[value["path"]]
