import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ft_pipeline_tests.end_to_end.project import ft, small_project


@dataclass(frozen=True)
class Finished:
    root: Path
    run: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A small project after its first `ft run`."""
    root = small_project(tmp_path_factory.mktemp("lifecycle") / "shop")
    return Finished(root, ft(root, "run", "--experiment", "qlora"))
