from pathlib import Path

import pytest

from ft_pipeline_tests.ratings.rated import RatedProject


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RatedProject:
    """A signed project whose comparison has two models with 63 answers that differ."""
    made = RatedProject(tmp_path / "shop")
    made.compare()
    monkeypatch.setenv("FT_PROJECT", str(made.root))
    monkeypatch.setenv("DAGSTER_HOME", str(made.root / "dagster_home"))
    return made
