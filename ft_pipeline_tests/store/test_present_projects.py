"""The packed projects of the present code (fixtures/make_present.py) are of the present code."""

import shutil
from pathlib import Path

import pytest

from ft_pipeline.step import STEPS
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.journal import changing
from ft_pipeline.store.signature_check import check_signatures
from ft_pipeline_tests.fixtures.make_present import SCORED_PROJECTS
from ft_pipeline_tests.fixtures.packing import FINISHED, SCORED, unpack, unpack_signed
from ft_pipeline_tests.store.old_store import reruns

MOST_BYTES = 2_000_000
ADVICE = "Steps changed since {0} was made. Make it again: python -m ft_pipeline_tests.fixtures.make_present {0}"


@pytest.mark.parametrize("packed", [SCORED, FINISHED], ids=lambda path: path.name)
def test_it_is_small(packed: Path) -> None:
    assert packed.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("name", SCORED_PROJECTS)
def test_scores_are_those_of_the_present_steps(tmp_path: Path, name: str) -> None:
    store = ArtifactStore(unpack(SCORED, tmp_path) / name / "shop" / "data" / "store")
    made = [artifact for kind in ("scores", "prompt_baseline") for artifact in store.all(kind)]
    assert len(made) == len(SCORED_PROJECTS[name]) + 1
    versions = {artifact.kind: artifact.spec["versions"]["code"] for artifact in made}
    assert versions == {kind: STEPS[kind].code_version for kind in versions}, ADVICE.format("scored")


def test_the_finished_project_is_up_to_date(tmp_path: Path) -> None:
    assert reruns(unpack(FINISHED, tmp_path) / "shop") == {}, ADVICE.format("finished")


def test_a_copy_is_as_it_was_signed_after_another_copy_signed_more(tmp_path: Path) -> None:
    store = unpack_signed(FINISHED, tmp_path) / "data" / "store"
    first, second = (shutil.copytree(store, tmp_path / name) for name in ("first", "second"))
    with changing(first) as sign:
        sign("test", {})
    assert check_signatures(second).faults == []
