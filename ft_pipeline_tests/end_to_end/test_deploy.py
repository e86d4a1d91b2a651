"""deploy/: the unit files are valid, and the services that they start work together."""

import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline_tests.end_to_end.services import DEPLOY, Name, Services, services, unit
from ft_pipeline_tests.end_to_end.ui import wait_until

NAMES = ("code", "daemon", "webserver", "auditors")
HEALTH = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
START = """mutation { startSensor(sensorSelector: {sensorName: "project_changes", repositoryName: "__repository__",
    repositoryLocationName: "ft_pipeline"}) { __typename } }"""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_accepts_the_unit_file(name: str, tmp_path: Path) -> None:
    """Programs and user are replaced by this machine's, because systemd-analyze checks that they exist."""
    for service in NAMES:
        text = re.sub(r"/opt/ft_pipeline/bin/[\w-]+", "/bin/true", unit(service)).replace("User=ft", "User=root")
        (tmp_path / f"ft-{service}.service").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / f"ft-{name}.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_code_location_keeps_its_name() -> None:
    """Dagster stores under this name which sensors run."""

    def name(path: Path) -> str:
        (location,) = yaml.safe_load(path.read_text(encoding="utf-8"))["load_from"]
        return next(iter(location.values()))["location_name"]

    assert name(DEPLOY / "workspace.yaml") == name(scaffold.example_folder() / "workspace.yaml")
    assert f"--location-name {name(DEPLOY / 'workspace.yaml')}\n" in unit("code")


def test_the_image_contains_no_data() -> None:
    """A removed file stays in an earlier layer, and images are published."""
    root = DEPLOY.parent
    ignored = set((root / ".dockerignore").read_text(encoding="utf-8").splitlines())
    assert {".git", "**/.venv", "data/store", "dagster_home/*", "!dagster_home/dagster.yaml"} <= ignored
    *_, last = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")
    copied = [line for line in last.splitlines() if line.startswith("COPY")]
    assert copied == ["COPY --from=build /wheels /wheels", "COPY --from=build /package /package"]


def test_the_image_runs_as_a_user_whom_kubernetes_knows_not_to_be_root() -> None:
    users = re.findall(r"^USER (\S+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(users) == 1 and int(users[0]) > 0


def test_the_image_installs_what_the_package_requires() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"requirements\.py (.*) >", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    command = [sys.executable, str(DEPLOY / "requirements.py"), *extras.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    optional = [line for name in extras.split() for line in project["optional-dependencies"][name]]
    assert done.stdout.splitlines() == project["dependencies"] + optional and len(optional) > 2


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory):
    root = scaffold.create(tmp_path_factory.mktemp("deploy") / "shop", example=True)
    with services(root, tmp_path_factory.mktemp("opt"), *NAMES) as group:
        yield group


@pytest.mark.slow
@pytest.mark.long
def test_the_services_work_together(started: Services) -> None:
    ui = started.ui()
    wait_until(lambda: _all_healthy(ui.query(HEALTH)), "every part of the daemon is healthy", 60)


@pytest.mark.slow
@pytest.mark.long
def test_auditors_can_read_but_not_change_anything(started: Services) -> None:
    auditors = started.ui("auditors")
    assert auditors.query("{ assetNodes { id } }")["assetNodes"]
    assert auditors.query(START) == {"startSensor": {"__typename": "UnauthorizedError"}}
    assert started.ui().query(START) == {"startSensor": {"__typename": "Sensor"}}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ("webserver", "auditors"))
def test_the_web_server_is_closed_to_other_machines_and_sites(started: Services, name: Name) -> None:
    started.ui(name)
    (listening,) = (
        connection.laddr
        for connection in psutil.Process(started.running[name].pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )
    assert (listening.ip, listening.port) == ("127.0.0.1", started.ports[name])
    request = urllib.request.Request(f"http://127.0.0.1:{started.ports[name]}/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


@pytest.mark.slow
@pytest.mark.long
def test_stopping_the_services_ends_every_process(started: Services) -> None:
    started.ui()
    for name in ("webserver", "daemon", "code"):
        started.stop(name)
    assert not (started.place / "code.sock").exists()


def _all_healthy(answer: dict) -> bool:
    statuses = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
    return len(statuses) > 3 and all(status["healthy"] for status in statuses)
