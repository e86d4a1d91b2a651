"""Fixtures that the tests of schedules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline import scaffold
from ft_pipeline_tests.automation.simulated import Simulation, simulated


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """A project with 60 raw rows and no tables, of whose experiments only `qlora` is retrained automatically."""
    root = scaffold.create(tmp_path / "shop", example=True)
    for path in (root / "data" / "raw").glob("*/*.*"):
        path.unlink()
    monkeypatch.setenv("FT_PROJECT", str(root))
    with simulated(root, tmp_path, min_new_rows=50) as simulation:
        yield simulation
