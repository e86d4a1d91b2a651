"""Stands in for a Kubernetes cluster: takes Jobs at its API, holds them against the published schema, and runs their
container's command as a process on this machine, in place of the image of deploy/Dockerfile."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

DOCKERFILE = Path(__file__).parents[2] / "deploy" / "Dockerfile"
KUBERNETES = "1.33"
"""The version of the schemas."""


def check(resource: Mapping[str, Any]) -> None:
    """Hold a resource against the published schema of its kind. An unknown key is an error."""
    kubernetes_validate.validate(json.loads(json.dumps(resource)), KUBERNETES, strict=True)


def image_command(args: list[str]) -> list[str]:
    """The command of a container of the image whose pod names `args`, and no `command`."""
    entrypoint = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    return [*(json.loads(entrypoint[-1]) if entrypoint else []), *args]


def start_container(args: list[str], environment: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
    """Start the command of a container with this Python's scripts in place of the image's."""
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        image_command(args),
        env={**os.environ, **environment, "PATH": scripts},
        start_new_session=True,
        # As in a container. A shell's `&` ignores SIGINT, and then Dagster would ignore SIGTERM, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


class Cluster:
    """Jobs by name, with their processes."""

    def __init__(self, log: Path) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.refused: list[str] = []
        self.deleted: list[str] = []
        self._log = log

    def create(self, job: dict[str, Any]) -> None:
        try:
            check(job)
        except kubernetes_validate.ValidationError as error:
            self.refused.append(str(error))
            raise
        name, container = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"][0]
        environment = {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}
        self.jobs[name] = job
        with self._log.open("ab") as log:
            self.processes[name] = start_container(container["args"], environment, stdout=log, stderr=subprocess.STDOUT)

    def status(self, name: str) -> dict[str, Any]:
        code = self.processes[name].poll()
        state = {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}
        return {**self.jobs[name], "status": state}

    def delete(self, name: str) -> None:
        self.deleted.append(name)
        self.signal(name, signal.SIGTERM)

    def signal(self, name: str, number: signal.Signals) -> None:
        """SIGTERM: the pod is evicted. SIGKILL: its node is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, number)

    def close(self) -> None:
        for name, process in self.processes.items():
            self.signal(name, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """Yield the cluster, and the kubeconfig of its API."""
    cluster = Cluster(folder / "pods.log")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": cluster}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "test", "user": {}}],
            }
        )
    )
    try:
        yield cluster, config
    finally:
        cluster.close()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.cluster.create(job)
        except kubernetes_validate.ValidationError as error:
            self._answer(422, {"kind": "Status", "message": str(error)})
        else:
            self._answer(201, job)

    def do_GET(self) -> None:
        name = re.search(r"/jobs/([^/]+)/status$", self.path)
        if name is None:
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": []})
        else:
            self._answer(200, self.cluster.status(name[1]))

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.cluster.delete(self.path.rpartition("/")[2].partition("?")[0])
        self._answer(200, {"kind": "Status", "status": "Success"})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write nothing to the test's output."""
