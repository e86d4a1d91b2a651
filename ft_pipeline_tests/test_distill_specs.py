"""The specs of distill: what a teacher's distributions depend on, and what they do not."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.step import MissingInput, SpecContext
from ft_pipeline.steps.shared.teacher_distributions import asks_a_teacher, teacher_distributions_spec
from ft_pipeline.steps.training_data import training_data_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.moving_rows import load_steps
from ft_pipeline_tests.projects import project_of

DISTILL = "objective: distill\ntechnique: lora\ndistill:\n  variant: short\n"
VARIANTS = "name: shop\nprompting:\n  variants:\n    short: {system_prompt: Be short., few_shot: 2}\n"


class Case:
    """A project with one experiment of distill, and a store with the tables and the base model."""

    def __init__(self, root: Path) -> None:
        self.project = project_of(root, a=DISTILL)
        (root / "project.yaml").write_text(VARIANTS)
        self.store = ArtifactStore(root / "data" / "store")
        self.base = self._put("base_model", "a", "base")
        self.other = self._build("base_model", "a larger one")
        for table in ("conversations", "unlabelled"):
            self._put(table, None, table)

    def write(self, more: str = "", variants: str = VARIANTS) -> None:
        (self.project.root / "experiments" / "a.yaml").write_text(DISTILL + more)
        (self.project.root / "project.yaml").write_text(variants)

    @property
    def context(self) -> SpecContext:
        return SpecContext(Project(self.project.root), self.store, "a")

    def spec(self, teacher: Artifact | None = None) -> Spec:
        settings = self.context.project.experiment("a")
        return teacher_distributions_spec(self.context, settings, self.base, teacher or self.base)

    def _put(self, kind: str, experiment: str | None, content: str) -> Artifact:
        artifact = self._build(kind, content)
        AssetPointers(self.store.root).write(kind, experiment, artifact)
        return artifact

    def _build(self, kind: str, content: str) -> Artifact:
        draft = self.store.begin(Spec(kind, config={"content": content}))
        (draft.out / "content").write_text(content, encoding="utf-8")
        return self.store.commit(draft, {"params": 1_000_000})


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    load_steps(monkeypatch)
    return Case(tmp_path)


def test_the_teachers_own_prompt_is_in_the_spec(case: Case) -> None:
    spec = case.spec()
    assert spec.config["variant"] == {**spec.config["variant"], "system_prompt": "Be short.", "few_shot": 2}
    assert set(spec.inputs) == {"base_model", "conversations", "unlabelled"}
    assert set(case.spec(case.other).inputs) == {"base_model", "conversations", "student", "unlabelled"}


@pytest.mark.parametrize("more", ["  divergence: jsd\n", "  jsd_beta: 0.2\n", "training: {num_train_epochs: 9}\n"])
def test_how_the_student_is_trained_asks_no_teacher_again(case: Case, more: str) -> None:
    before = case.spec().hash
    case.write(more)
    assert case.spec().hash == before


@pytest.mark.parametrize(
    "changes",
    [
        {"more": "  top_k: 8\n"},
        {"more": "  answers_per_prompt: 3\n"},
        {"more": "data: {system_prompt: Hello.}\n"},
        {"variants": VARIANTS.replace("few_shot: 2", "few_shot: 3")},
    ],
)
def test_what_the_distributions_depend_on_asks_the_teacher_again(case: Case, changes: dict[str, Any]) -> None:
    before = case.spec().hash
    case.write(**changes)
    assert case.spec().hash != before


def test_an_unknown_variant_is_refused_with_the_known_ones(case: Case) -> None:
    case.write(variants=VARIANTS.replace("short:", "other:"))
    with pytest.raises(UserError, match=r"distill.variant 'short' is not in prompting.variants. Choose from: other"):
        case.spec()


def test_the_training_data_waits_for_the_distributions(case: Case) -> None:
    settings = case.context.project.experiment("a")
    with pytest.raises(MissingInput) as missing:
        training_data_spec(case.context, settings)
    assert missing.value.spec.hash == case.spec().hash
    draft = case.store.begin(case.spec())
    (draft.out / "content").write_text("rows", encoding="utf-8")
    artifact = case.store.commit(draft, {})
    spec = training_data_spec(case.context, settings)
    assert spec.inputs["teacher_distributions"] == artifact.reference and "unlabelled" in spec.inputs


def test_only_a_project_with_such_an_experiment_may_need_a_gpu_for_its_training_data(case: Case) -> None:
    assert asks_a_teacher(case.context.project)
    (case.project.root / "experiments" / "a.yaml").write_text("technique: lora\n")
    assert not asks_a_teacher(case.context.project)
