"""What an experiment requests from a cluster: which values are accepted, and that no artifact depends on them."""

from pathlib import Path

import pytest

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.experiment import spec as experiment_spec
from ft_pipeline.store.artifacts import ArtifactStore


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(scaffold.create(tmp_path / "shop", example=True))


def write(project: Project, machine: str) -> None:
    (project.root / "experiments" / "mine.yaml").write_text(f"technique: lora\nmachine: {machine}\n")


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ("{memory_gb: 0}", "memory_gb"),
        ("{cores: 4}", "cores"),
        ("{tolerations: [{key: gpu, effect: Never}]}", "effect"),
        ("{slurm: {-p: gpu}}", "'-p' is not an option of sbatch. Use a long name such as partition."),
        ("{slurm: {ntasks: 2}}", "a step is one task on one node. Remove 'ntasks'."),
        (r'{slurm: {comment: "a\nrm -rf /"}}', "is not one line of plain text. Correct 'comment'."),
    ],
)
def test_an_invalid_request_is_one_error_in_its_line(project: Project, machine: str, message: str) -> None:
    write(project, machine)
    with pytest.raises(UserError, match=r"^mine.yaml: line 2: ") as error:
        project.experiment("mine")
    assert message in str(error.value)


def test_what_a_cluster_is_asked_for_is_in_no_spec(project: Project) -> None:
    context = SpecContext(project, ArtifactStore(project.store), "mine")
    write(project, "{}")
    before = experiment_spec(context).hash
    write(project, "{cpus: 4, memory_gb: 8, max_hours: 2, slurm: {partition: gpu, nice: 3}}")
    assert experiment_spec(context).hash == before
