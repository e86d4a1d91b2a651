"""The sdist and the wheel: what they hold, and that the wheel works in another folder without this repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_COPIED = (".*", "build", "dist", "__pycache__", "*.egg-info", "ft_pipeline_tests", "benchmarks", "docs")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
LEFT_BEHIND = ("examples/extraction/data/store/key.json", "examples/extraction/dagster_home/history/runs.db")
"""Files that a run in an example would make."""
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as `python -m build` does."""
    place = tmp_path_factory.mktemp("built")
    source = shutil.copytree(ROOT, place / "source", ignore=_not_copied)
    for name in LEFT_BEHIND:
        (source / name).parent.mkdir(parents=True)
        (source / name).touch()
    _build("build_sdist", source, place)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    _build("build_wheel", place / sdist.name.removesuffix(".tar.gz"), place)
    (built,) = place.glob("*.whl")
    return built


def _not_copied(folder: str, names: list[str]) -> set[str]:
    return shutil.ignore_patterns(*NOT_COPIED, *(["store"] if Path(folder).name == "data" else []))(folder, names)


def _build(what: str, source: Path, place: Path) -> None:
    command = [sys.executable, "-c", BUILD, what, str(place)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _environment(**variables: str) -> dict[str, str]:
    """Environment variables that lead neither to this repository nor to a project."""
    ours = ("PYTHONPATH", "FT_PROJECT", "DAGSTER_HOME")
    return {name: value for name, value in os.environ.items() if name not in ours} | variables


@pytest.mark.long
def test_the_wheel_holds_the_package_and_the_examples_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {path for path in (ROOT / "ft_pipeline").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.relative_to(ROOT).as_posix() for path in package} <= names, "each module, template and marker"
    example = {name.removeprefix("ft_pipeline/example/") for name in names if name.startswith("ft_pipeline/example/")}
    kept = (
        "schemas",
        "experiments",
        "examples/classification/data/raw/alpaca",
        "data/raw/alpaca",
        "data/general",
        "data/probes",
    )
    for folder in kept:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).iterdir() if path.is_file()}
        assert files and files <= example, folder
    assert {"project.yaml", "workspace.yaml", "dg.toml", "dagster_home/dagster.yaml"} <= example
    assert not example & set(LEFT_BEHIND)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ft_pipeline"}


@pytest.mark.long
def test_the_wheel_can_plan_the_run_of_its_example(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    env = _environment(PYTHONPATH=str(installed))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.startswith(str(installed)), "it is the wheel's code that ran"
    plan = json.loads(done.stdout[done.stdout.index("{\n") :])["plan"]
    assert {"raw_alpaca", "adapter", "champion"} <= {step["asset"] for step in plan if step["state"] == "never_run"}
    assert (tmp_path / "shop" / "data" / "raw" / "alpaca" / "support_01.jsonl").is_file()
    assert (tmp_path / "orders" / "data" / "schemas" / "order.json").is_file()


@pytest.mark.long
def test_pip_installs_the_wheel_and_ft_runs_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own. It takes the other packages from this one, as if pip had installed them, too."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "bin" / "python"),
        "install",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*pip, "-q", str(wheel)], check=True, env=_environment(), capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def ft(*arguments: str) -> str:
        command = [str(folder / "bin" / "ft"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    ft("init", "messages", "--example-of", "classification")
    plan = json.loads(ft("run", "--plan", "--json", "--project", "messages"))["plan"]
    assert {"alpaca", "adapter", "comparison"} <= {step["asset"] for step in plan if step["runs"]}
