"""Two runs materialize the same asset at once: the one with older inputs never stays current."""

import subprocess
import sys
from pathlib import Path

import pytest

from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline_tests.execution.conftest import ROOT, wait_until


def start(project: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ft_pipeline_tests.execution.concurrent_step", str(project)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def version(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
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
