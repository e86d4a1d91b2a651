import shutil
from pathlib import Path

import pytest

from ft_pipeline_tests.fixtures.make_present import PROBES, SCORED_PROJECTS
from ft_pipeline_tests.fixtures.packing import SCORED, unpack
from ft_pipeline_tests.release.trained import SYSTEM_PROMPT, Trained


@pytest.fixture(scope="session")
def scored_projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of projects with adapters and scores; tests must not change them, but may copy them."""
    return unpack(SCORED, tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="session")
def trained(scored_projects: Path) -> Trained:
    """Three experiments with different techniques, and a comparison; tests must not change the store."""
    project = Trained.opened(scored_projects / "trained" / "shop", [*SCORED_PROJECTS["trained"]])
    project.compare_scored()
    return project


@pytest.fixture(scope="session")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two experiments whose answers were made by this machine, so that it makes the same ones again."""
    project = Trained(tmp_path_factory.mktemp("here") / "shop")
    project.train("lora", "lora", system_prompt=SYSTEM_PROMPT)
    project.train("whole", "full")
    project.compare()
    return project


@pytest.fixture(scope="module")
def probed(scored_projects: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two trained models that were asked whether they still answer, and a comparison. A module may add to it."""
    root = tmp_path_factory.mktemp("probed") / "shop"
    shutil.copytree(scored_projects / "probed" / "shop", root)
    project = Trained.opened(root, [*SCORED_PROJECTS["probed"]], {"comply": PROBES})
    project.compare_scored()
    return project
