"""A project without unlabelled prompts has no teacher to load, as long as it names none."""

import shutil
from pathlib import Path

import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.execution import run
from ft_pipeline.execution.planning import PlannedStep
from ft_pipeline.project import Project
from ft_pipeline.step import MissingInput, SpecContext
from ft_pipeline.steps.shared.scoring_specs import teacher_spec
from ft_pipeline.steps.teacher_answers import has_teacher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.end_to_end.project import current, ft, write_experiment
from ft_pipeline_tests.evaluation.moving_rows import load_steps
from ft_pipeline_tests.tiny import tiny_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A new project with one file of rows, and one experiment on a tiny model in a folder."""
    root = scaffold.create(tmp_path / "shop", example=False)
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    write_experiment(root, "own", tiny_model(root / "models" / "tiny"))
    shutil.copy(scaffold.example_folder() / "data" / "raw" / "alpaca" / "support_01.jsonl", root / "data/raw/alpaca")
    return root


def context_of(root: Path) -> SpecContext:
    return SpecContext(Project(root), ArtifactStore(root / "data" / "store"))


def materialize_tables(root: Path) -> None:
    tables = "alpaca,sharegpt,chat,traces,text,preferences,feedback,unlabelled"
    raw = ",".join(f"raw_{name}" for name in tables.split(","))
    materialize(root, f"{raw},{tables},conversations,teacher_answers,distilled")


def materialize(root: Path, assets: str) -> None:
    done = ft(root, "run", "--select", assets)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.long
def test_nothing_of_the_embedded_model_is_made_without_prompts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_steps(monkeypatch)
    materialize_tables(root)
    store, answers = ArtifactStore(root / "data" / "store"), current(root, "teacher_answers")
    assert store.all("base_model") == [] and "worker_seconds" not in answers.manifest["run"]
    assert answers.summary["prompts"] == 0 and current(root, "distilled").summary["kept"] == 0
    scored = {"conversations": current(root, "conversations").reference, "base_model": ("base_model", "a" * 64)}
    assert teacher_spec(context_of(root), scored) is None, "it is no row of the comparison"

    write_experiment(root, "example", Path("embedded"))
    context = context_of(root)
    assert has_teacher(context), "as in older versions, whose artifacts stay up to date"
    (root / "experiments" / "example.yaml").unlink()
    assert not has_teacher(context_of(root))
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["teacher"] = {"model": str(root / "models" / "tiny")}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(MissingInput, match="base_model"):
        teacher_spec(context_of(root), scored)
    materialize(root, "teacher_answers")
    answers = current(root, "teacher_answers")
    assert "base_model" in answers.inputs and "worker_seconds" not in answers.manifest["run"]


def test_only_a_project_with_prompts_needs_the_wheel_of_its_default_teacher(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = []
    monkeypatch.setattr(run, "find_embedded", lambda: needed.append(True))
    planned = [PlannedStep("teacher_answers", None, "never_run", ""), PlannedStep("base_model", "own", "never_run", "")]
    run._require_embedded_model(Project(root), planned)
    assert needed == []
    (root / "data" / "raw" / "unlabelled" / "inbox.jsonl").write_text('{"instruction": "What is Riga?"}\n')
    run._require_embedded_model(Project(root), planned)
    assert needed == [True]
