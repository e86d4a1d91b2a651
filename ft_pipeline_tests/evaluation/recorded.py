"""The small projects of projects/, and the scores that the embedded model gave on them.

`python -m ft_pipeline_tests.evaluation.recorded FOLDER NAME` records again. FOLDER is a project folder with the files
of projects/NAME in which `ft run` has finished, as in the long test of test_projects.py.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ft_pipeline.decide.build import build
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.evaluation.comparison.training_facts import read_training_facts
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.version1.convert import as_version_1

PROJECTS = Path(__file__).parent / "projects"
EXPERIMENT = "lora"
ASSETS = ("prompt_baseline", "scores")
FILES = ("scores.json", "samples.parquet", "general.parquet", "tasks.parquet")


def record(folder: Path, name: str) -> None:
    """Copy the scores of `folder` to projects/NAME/recorded, and the training facts that a comparison needs."""
    store = ArtifactStore(Project.find(folder).store)
    target = PROJECTS / name / "recorded"
    shutil.rmtree(target, ignore_errors=True)
    artifacts = {asset: _current(store, asset) for asset in ASSETS}
    for asset, artifact in artifacts.items():
        (target / asset).mkdir(parents=True)
        for file in FILES:
            shutil.copy(artifact.path / file, target / asset)
    training = read_training_facts(store, artifacts["scores"], name)
    (target / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")


def _current(store: ArtifactStore, asset: str) -> Artifact:
    pointer = AssetPointers(store.root).read(asset, EXPERIMENT)
    assert pointer is not None, f"{asset} was never materialized there"
    return store.require(pointer.kind, pointer.fingerprint)


def training_of(name: str) -> dict[str, Any]:
    """The facts about the training that compare and recommend need."""
    return json.loads((PROJECTS / name / "recorded" / "training.json").read_text(encoding="utf-8"))


def comparison_of(name: str) -> dict[str, Any]:
    """comparison.json of the recorded scores as version 1 had it."""
    return as_version_1(compared(name)).to_json()


def document_of(name: str) -> dict[str, Any]:
    """comparison.json of the recorded scores."""
    return compared(name).to_json()


def compared(name: str, conversations: Path | None = None) -> Comparison:
    """The comparison of the recorded scores, under the project's settings. conversations: with the clusters of rows."""
    settings = Project.find(PROJECTS / name).settings
    config = {"primary_metric": settings.promotion.metric}
    inputs = {f"{EXPERIMENT}/{asset}": PROJECTS / name / "recorded" / asset for asset in ASSETS}
    return build(inputs, config, {EXPERIMENT: training_of(name)}, conversations)


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
