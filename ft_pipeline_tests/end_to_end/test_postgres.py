"""Dagster's record in PostgreSQL: a real server on loopback, four runs at once, and one line if it is unreachable."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ft_pipeline_tests.end_to_end.project import environment, ft, small_project, write_experiment
from ft_pipeline_tests.end_to_end.ui import serving

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

PASSWORD = "heliotrope-7"
NAMES = ("first", "second", "third", "fourth")
HEAD = "# storage:\n#   postgres:\n#     postgres_url:\n#       env: FT_POSTGRES_URL\n"


def programs() -> Path | None:
    """The folder of Debian's `initdb` and `pg_ctl`, or None."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return installed[-1].parent if installed else Path(on_path).parent if on_path else None


@contextmanager
def server() -> Iterator[str]:
    """Start a server on a free port; returns its address. PostgreSQL refuses root, which runs it as `postgres`."""
    where = programs()
    if where is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="ft_pipeline-postgres-") as name:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        folder = Path(name)
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if user:
            shutil.chown(folder, user)

        def call(*command: str) -> None:
            done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr + done.stdout

        data = str(folder / "data")
        call(f"{where}/initdb", "-D", data, "-U", "ft", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        call(f"{where}/pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://ft:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call(f"{where}/pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


def with_postgres(root: Path) -> Path:
    """Uncomment the lines for PostgreSQL in dagster.yaml."""
    path = root / "dagster_home" / "dagster.yaml"
    text = path.read_text(encoding="utf-8")
    assert HEAD in text
    path.write_text(text.replace(HEAD, HEAD.replace("# ", "")), encoding="utf-8")
    return root


def test_four_runs_at_once_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = with_postgres(small_project(tmp_path / "shop", variants=False))
    for name in NAMES:
        write_experiment(root, name, root / "models" / "tiny", technique="lora", seed=len(name))
    command = [str(Path(sys.executable).parent / "ft"), "run", "--experiment"]
    with server() as url:
        monkeypatch.setenv("FT_POSTGRES_URL", url)
        env = environment(root)
        outputs = [(tmp_path / name).open("w+") for name in NAMES]
        runs = [
            subprocess.Popen([*command, name], env=env, stdout=output, stderr=subprocess.STDOUT)
            for name, output in zip(NAMES, outputs, strict=True)
        ]
        codes = [run.wait(timeout=900) for run in runs]
        shown = [(tmp_path / name).read_text(encoding="utf-8") for name in NAMES]
        assert codes == [0, 0, 0, 0], "\n".join(text[-2000:] for text in shown)
        with serving(root) as ui:
            statuses = [run["status"] for run in ui.runs()]
        log = (root / "ui.log").read_text(encoding="utf-8")
    assert len(statuses) >= len(NAMES) and set(statuses) == {"SUCCESS"}
    assert not list((root / "dagster_home").rglob("*.db"))
    assert not any(PASSWORD in text for text in (*shown, log))


def test_an_unreachable_server_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = with_postgres(small_project(tmp_path / "shop", variants=False))
    monkeypatch.delenv("FT_POSTGRES_URL", raising=False)
    for url, message in (
        (None, "FT_POSTGRES_URL"),
        (f"postgresql://ft:{PASSWORD}@127.0.0.1:9/postgres", "Connection refused. "),
    ):
        if url:
            monkeypatch.setenv("FT_POSTGRES_URL", url)
        done = ft(root, "run", "--select", "raw_text")
        text = done.stdout + done.stderr
        assert done.returncode == 2 and message in text, text[-3000:]
        assert "Traceback" not in text and PASSWORD not in text
