"""The teacher's assets against a server on loopback, as a user runs them: `ft run`, a real instance, a real worker."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.current import Current
from ft_pipeline_tests.distillation.fault_server import MODEL, FaultServer, serving
from ft_pipeline_tests.end_to_end.project import environment, small_project

pytestmark = pytest.mark.slow

KEY = "sk-a-secret-that-nobody-may-see"
FORMATS = ("alpaca", "sharegpt", "text", "preferences", "unlabelled")
UP_TO_DISTILLED = [*(f"raw_{name}" for name in FORMATS), *FORMATS, "conversations", "teacher_answers", "distilled"]


def hosted(root: Path, server: FaultServer, **endpoint: object) -> None:
    """Let the project's teacher be the server."""
    path = root / "project.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    about = {"url": server.url, "api_key_env": "TEACHER_KEY", "max_failed": 0.5, **endpoint}
    settings["teacher"].update(model=MODEL, endpoint=about, max_new_tokens=40)
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def run(root: Path, *assets: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ft"), "run", "--json", "--select", ",".join(assets)]
    return subprocess.run(
        command,
        env=environment(root) | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def current(root: Path, asset: str) -> Artifact:
    store = ArtifactStore(root / "data" / "store")
    pointer = Current(store.root).read(asset)
    assert pointer is not None
    return store.require(pointer.kind, pointer.fingerprint)


def holders_of(secret: str, root: Path) -> list[str]:
    """Files below `root` that hold the secret, Dagster's databases and compute logs included."""
    return [str(path) for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_hosted_teacher_from_a_wrong_key_to_distilled_rows(tmp_path: Path) -> None:
    root = small_project(tmp_path / "shop")
    with serving(key=KEY, faults={"server_error": 0.1, "cut_off": 0.1}, seed=5) as server:
        hosted(root, server)
        wrong = run(root, *UP_TO_DISTILLED, TEACHER_KEY="sk-wrong-key")
        assert wrong.returncode == 1
        assert "the teacher cannot be asked: HTTP 401: Incorrect key: Bearer ***" in wrong.stdout
        done = run(root, *UP_TO_DISTILLED, TEACHER_KEY=KEY)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = server.requests
        # What changes no answer makes nothing stale.
        hosted(root, server, concurrency=3, budget={"tokens": 1_000_000})
        assert json.loads(run(root, *UP_TO_DISTILLED).stdout)["steps"] == []
        assert server.requests == asked
    for secret in (KEY, "sk-wrong-key"):
        assert holders_of(secret, root) == []
        assert all(secret not in each.stdout + each.stderr for each in (wrong, done))
    _holds_provenance(root, server)


def _holds_provenance(root: Path, server: FaultServer) -> None:
    answers, distilled = current(root, "teacher_answers"), current(root, "distilled")
    spent = answers.summary["spent"]
    assert answers.summary["prompts"] == 8 == answers.summary["answered_now"] + answers.summary["failed"]
    assert spent["paid_requests"] == server.paid
    rows = pq.read_table(distilled.path / "rows.parquet").to_pylist()
    assert rows
    host = server.url.removeprefix("http://").removesuffix("/v1")
    for row in rows:
        assert (row["teacher"], row["endpoint_host"]) == (MODEL, host)
        assert row["request_id"].startswith("req-")
        assert row["answered_at"].endswith("+00:00")
        assert (row["prompt_tokens"], row["answer_tokens"]) == (20, 10)
        assert len(row["template_sha256"]) == len(row["prompt_sha256"]) == len(row["teacher_fingerprint"]) == 64
        assert json.loads(row["sampling"])["max_new_tokens"] == 40
    aside = pq.read_table(distilled.path / "set_aside.parquet").to_pylist()
    assert len(rows) + len(aside) == 8
    assert "answer_cut_off" in {row["code"] for row in aside} or not server.failed["cut_off"]
