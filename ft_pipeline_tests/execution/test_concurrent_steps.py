"""Two runs materialize the same asset at once: the one with older inputs never stays current."""

from pathlib import Path

import pytest

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline_tests.execution.conftest import wait_until
from ft_pipeline_tests.forked_process import ForkedProcess


def start(project: Path) -> ForkedProcess:
    return ForkedProcess("ft_pipeline_tests.execution.concurrent_step", str(project))


def version(process: ForkedProcess) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.split()[-1]


def test_the_run_with_older_scores_ends_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_PROJECT", str(tmp_path))
    (tmp_path / "project.yaml").write_text("name: shop\n", encoding="utf-8")
    (tmp_path / "scores.txt").write_text("older", encoding="utf-8")
    slow = start(tmp_path)
    wait_until(lambda: (tmp_path / "building").exists() or slow.poll() is not None, "the first run builds")
    (tmp_path / "scores.txt").write_text("newer", encoding="utf-8")
    newer = version(start(tmp_path))
    (tmp_path / "newer").touch()
    assert version(slow) == newer, "the slow run shows the same in the UI"
    artifact = current_artifact(ArtifactStore(tmp_path / "data" / "store"), "comparison")
    assert artifact is not None and artifact.fingerprint == newer
    assert (artifact.path / "scores.txt").read_text(encoding="utf-8") == "newer"
