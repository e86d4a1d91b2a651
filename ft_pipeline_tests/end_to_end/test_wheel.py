"""The wheel alone: installed in another folder, it writes the worked example and plans its run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "project.yaml", "workspace.yaml", "dg.toml")
FOLDERS = ("ft_pipeline", "schemas", "experiments", "examples", "data/raw", "data/general", "data/probes")
SCRIPT = """
import sys
import ft_pipeline
from ft_pipeline.cli import main
sys.stderr.write(ft_pipeline.__file__)
shop = ["--project", "shop"]
small = ["init", "orders", "--example-of", "extraction"]
for arguments in (["init", "shop", "--example"], small, ["run", "--plan", "--json", "-e", "qlora", *shop]):
    sys.argv = ["ft", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in (*NEEDED, "data/README.md", "dagster_home/dagster.yaml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(place)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def test_the_wheel_contains_the_example_and_can_plan_its_run(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.startswith(str(installed)), "it is the wheel's code that ran"
    plan = json.loads(done.stdout[done.stdout.index("{\n") :])["plan"]
    assert {"raw_alpaca", "adapter", "champion"} <= {step["asset"] for step in plan if step["state"] == "never_run"}
    assert (tmp_path / "shop" / "data" / "raw" / "alpaca" / "support_01.jsonl").is_file()
    assert (tmp_path / "orders" / "data" / "schemas" / "order.json").is_file()
