"""The services of deploy/ as processes: what systemd would start, with the paths of a test."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ft_pipeline_tests.end_to_end.project import environment
from ft_pipeline_tests.end_to_end.ui import Ui, wait_until_loaded

DEPLOY = Path(__file__).parents[2] / "deploy"
Name = Literal["code", "daemon", "webserver", "auditors"]
ENDS_WITHIN = 60.0
"""Seconds; the units' TimeoutStopSec, after which systemd kills."""


def unit(name: Name) -> str:
    """The text of a unit file."""
    return (DEPLOY / f"ft-{name}.service").read_text(encoding="utf-8")


@dataclass
class Services:
    """The services of one project; each is started, stopped and killed separately."""

    root: Path
    place: Path
    """Replaces /opt/ft_pipeline and /run/ft_pipeline."""
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[Name, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        text = (DEPLOY / "workspace.yaml").read_text(encoding="utf-8")
        (self.place / "workspace.yaml").write_text(self._with_test_paths(text), encoding="utf-8")

    def start(self, *names: Name) -> None:
        """Start the services in this order, as `After=` demands."""
        for name in names:
            for before in re.findall(r"^ExecStartPre=(.*)$", unit(name), re.MULTILINE):
                assert self._start(name, before).wait(ENDS_WITHIN) == 0, f"see {self.place / name}.log"
            (command,) = re.findall(r"^ExecStart=(.*)$", unit(name), re.MULTILINE)
            self.running[name] = self._start(name, command)

    def _start(self, name: Name, command: str) -> subprocess.Popen[bytes]:
        with (self.place / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                shlex.split(self._with_test_paths(command)),
                cwd=self.root,
                env=environment(self.root),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_as_systemd_starts,
            )

    def ui(self, name: Name = "webserver") -> Ui:
        """The web server, once its code location is loaded."""
        served = Ui(f"http://127.0.0.1:{self.ports[name]}")
        wait_until_loaded(served, self.running[name])
        return served

    def stop(self, name: Name) -> int:
        """What `systemctl stop` does first: SIGTERM to every process of the service. Returns its exit code."""
        process = self.running.pop(name)
        for pid in self.members(process.pid):
            _signal(pid, signal.SIGTERM)
        return process.wait(ENDS_WITHIN)

    def kill(self, name: Name) -> None:
        """SIGKILL to the main process alone: a crash."""
        process = self.running.pop(name)
        process.kill()
        process.wait(ENDS_WITHIN)

    @staticmethod
    def members(pid: int) -> list[int]:
        """A service's processes: systemd finds them by control group, this test by descent."""
        import psutil

        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]

    def _with_test_paths(self, text: str) -> str:
        for port in re.findall(r"--port (\d+)", text):
            self.ports["auditors" if port == "3001" else "webserver"] = free = _free_port()
            text = text.replace(port, str(free))
        text = text.replace("/opt/ft_pipeline/bin", str(Path(sys.executable).parent))
        return text.replace("/opt/ft_pipeline", str(self.place)).replace("/run/ft_pipeline", str(self.place))


@contextmanager
def services(root: Path, place: Path, *names: Name):
    """Start services, and end them even if the test fails."""
    group = Services(root, place)
    try:
        group.start(*names)
        yield group
    finally:
        for process in group.running.values():
            for pid in group.members(process.pid) if process.poll() is None else []:
                _signal(pid, signal.SIGKILL)
            process.wait(ENDS_WITHIN)


def _as_systemd_starts() -> None:
    """Restore SIGINT, which a shell's `&` ignores: Dagster would then ignore SIGTERM too. systemd ignores neither."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
