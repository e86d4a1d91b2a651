import shutil
from pathlib import Path

import pytest

from ft_pipeline_tests.ratings.rated import RatedProject


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a signed project whose comparison has two models with 63 answers that differ."""
    made = RatedProject.create(tmp_path_factory.mktemp("compared") / "shop")
    made.compare()
    return made.root


@pytest.fixture
def project(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RatedProject:
    """A copy of it, which a test may change."""
    root = tmp_path / "shop"
    shutil.copytree(compared, root)
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    return RatedProject(root)
