"""Fixtures that the tests of schedules share."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_pipeline import scaffold
from ft_pipeline_tests.automation.simulated import Simulation, simulated
from ft_pipeline_tests.conftest import close_databases_of_dagster

REMEMBERED = ("sensor_cursor", "files_cursor", "settings_cursor", "condition_cursor", "run_keys", "now")
"""What a simulation knows of the days before."""


def without_rows(root: Path) -> Path:
    """Write the example project without its raw files."""
    scaffold.create(root, example=True)
    for path in (root / "data" / "raw").glob("*/*.*"):
        path.unlink()
    return root


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """A project with 60 raw rows and no tables, of whose experiments only `qlora` is retrained automatically."""
    root = without_rows(tmp_path / "shop")
    monkeypatch.setenv("FT_PROJECT", str(root))
    with simulated(root, tmp_path, min_new_rows=50) as simulation:
        yield simulation


@dataclass(frozen=True)
class Begun:
    """The same project and its instance after the first run, kept for each test to begin with."""

    folder: Path
    kept: Path
    remembered: dict[str, Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """The first run, made once for the tests of a module."""
    folder = tmp_path_factory.mktemp("begun")
    root = without_rows(folder / "now" / "shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        with simulated(root, folder / "now", min_new_rows=50) as simulation:
            simulation.first_run()
    shutil.copytree(folder / "now", folder / "kept")
    return Begun(folder / "now", folder / "kept", {name: getattr(simulation, name) for name in REMEMBERED})


@pytest.fixture
def begun(kept: Begun, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """A project after its first run: `shop` with all tables, and `qlora` trained."""
    close_databases_of_dagster()
    shutil.rmtree(kept.folder)
    shutil.copytree(kept.kept, kept.folder)  # where it was, so that no path changes
    monkeypatch.setenv("FT_PROJECT", str(kept.folder / "shop"))
    with dg.instance_for_test(temp_dir=str(kept.folder)) as instance:
        simulation = Simulation(kept.folder / "shop", instance)
        vars(simulation).update(kept.remembered, run_keys=set(kept.remembered["run_keys"]))
        yield simulation
