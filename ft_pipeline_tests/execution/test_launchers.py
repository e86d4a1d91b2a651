"""Which launcher starts a worker, and which values of environment variables are accepted."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline import scaffold
from ft_pipeline.cli import app
from ft_pipeline.clusters.launchers import RayLauncher
from ft_pipeline.errors import UserError
from ft_pipeline.execution.build import HUB_TOKENS, build_artifact, variables_of_job
from ft_pipeline.execution.machines import device_need
from ft_pipeline.execution.step_run import trained_by
from ft_pipeline.execution.workers.accelerate_config import ACCELERATE_CONFIG, NUM_PROCESSES, Processes
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.launchers import (
    AccelerateLauncher,
    LocalLauncher,
    check_environment,
    launcher_for,
)
from ft_pipeline.execution.workers.rank_launcher import rank_environment
from ft_pipeline.execution.workers.worker_variables import allowed_variables
from ft_pipeline.models.compute_setting import COMPUTE_DTYPE_VARIABLE
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.execution.conftest import job

FLOAT8 = r"^FT_COMPUTE_DTYPE='float8' is not a compute type\. Set it to auto, float32 or bfloat16\.$"


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FT_LAUNCHER", "FT_COMPUTE_DTYPE", "FT_NUM_PROCESSES", "FT_ACCELERATE_CONFIG", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the worked example."""
    root = scaffold.create(tmp_path / "shop", example=True)
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    return root


# --- the compute type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], ["ui"], ["serve", "champion"]])
def test_an_unknown_compute_type_is_refused_before_anything_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it became another program"))
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float8")
    with pytest.raises(UserError, match=FLOAT8):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not (root / "data" / "store").exists()
    assert [path.name for path in (root / "dagster_home").iterdir()] == ["dagster.yaml"]


def test_a_step_from_the_ui_refuses_an_unknown_compute_type(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float8")
    with pytest.raises(UserError, match=FLOAT8):
        build_artifact(None, store, Spec("scores"), device=True)


def test_a_ray_job_passes_the_compute_type_to_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_COMPUTE_DTYPE", "float32")
    worker_job = job(tmp_path, "count")
    lifeline, kept = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        agent = RayLauncher().start(worker_job.write(), env={"SOME": "thing"}, lifeline=lifeline, log=log)
    os.close(lifeline)
    os.close(kept)
    agent.wait(60)  # there is no cluster, and perhaps no Ray
    order = json.loads((worker_job.folder / "order.json").read_text())
    assert order["env"]["FT_COMPUTE_DTYPE"] == "float32" and order["env"]["SOME"] == "thing"
    assert "FT_NUM_PROCESSES" not in order["env"]


# --- several GPUs -----------------------------------------------------------------------------------------------------


def test_a_training_on_several_gpus_uses_accelerate_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    two = DeviceNeed(count=2)
    assert launcher_for("adapter", two) == AccelerateLauncher()
    assert launcher_for("scores", two) == LocalLauncher(forks=True)
    assert launcher_for("adapter", DeviceNeed()) == LocalLauncher(forks=True)
    monkeypatch.setenv("FT_LAUNCHER", "local")
    with pytest.raises(UserError, match=r"^gpu\.count is 2, but FT_LAUNCHER=local .* Set FT_LAUNCHER=accelerate\.$"):
        launcher_for("adapter", two)


def test_one_process_sees_one_gpu_of_two(tmp_path: Path) -> None:
    """FT_NUM_PROCESSES=1 with two leased GPUs: transformers would spread the model over both, which TRL refuses."""
    own = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert rank_environment(own, Processes(1), 0, tmp_path)["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert rank_environment(own, Processes(2), 1, tmp_path)["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert rank_environment({"CUDA_VISIBLE_DEVICES": ""}, Processes(1), 0, tmp_path)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in rank_environment({}, Processes(1), 0, tmp_path)


@pytest.mark.parametrize(
    ("gpu", "training", "scoring"),
    [
        ("", DeviceNeed(), DeviceNeed()),
        ("gpu: {}", DeviceNeed(), DeviceNeed()),
        ("gpu: {min_memory_gb: 0}", DeviceNeed(), DeviceNeed()),
        ("gpu: {count: 1}", DeviceNeed(required=True), DeviceNeed(required=True)),
        ("gpu: {min_memory_gb: 24}", DeviceNeed(1, 24, required=True), DeviceNeed(1, 24, required=True)),
        ("gpu: {count: 2}", DeviceNeed(2, required=True), DeviceNeed(1, required=True)),
    ],
)
def test_gpu_settings_are_required_and_only_training_uses_several_gpus(
    root: Path, gpu: str, training: DeviceNeed, scoring: DeviceNeed
) -> None:
    (root / "experiments" / "mine.yaml").write_text(f"technique: lora\nseeds: 2\n{gpu}\n")
    for name in ("mine", "mine.seed1"):
        assert device_need(Project(root), name, "adapter") == training
        for kind in ("merged_model", "scores", "prompt_baseline"):
            assert device_need(Project(root), name, kind) == scoring
    assert device_need(Project(root), None, "teacher_answers") == DeviceNeed()


def test_a_job_gets_the_variables_that_its_settings_name() -> None:
    from_hub = Spec("base_model", config={"model": "someone/some-model"})
    assert variables_of_job(from_hub) == HUB_TOKENS
    assert variables_of_job(Spec("base_model", config={"model": "embedded"})) == ()
    assert variables_of_job(Spec("scores", config={"evaluation": {"tasks": ["arc_easy"]}})) == ()
    assert variables_of_job(Spec("adapter", handling={"report_to": ["wandb", "tensorboard"]})) == ("WANDB_*",)
    environment = {"WANDB_API_KEY": "1", "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "2", "VLLM_API_KEY": "3"}
    assert allowed_variables(environment, ("WANDB_*",)) == {"WANDB_API_KEY": "1", "WANDB_MODE": "offline"}


def test_every_worker_gets_the_variables_that_configure_it() -> None:
    environment = dict.fromkeys(
        (COMPUTE_DTYPE_VARIABLE, NUM_PROCESSES, ACCELERATE_CONFIG, "TOKENIZERS_PARALLELISM"), "x"
    )
    assert allowed_variables(environment) == environment
    assert allowed_variables({"PATHS": "x", "path": "x"}) == {}


@pytest.mark.parametrize("names", ("*", "A=1", "HF-TOKEN", "MY_*_KEY"))
def test_ft_worker_env_contains_names_only(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_WORKER_ENV", names)
    with pytest.raises(UserError, match=r"FT_WORKER_ENV contains '.*', which is not the name of"):
        check_environment()


def test_the_champion_is_scored_on_the_device_of_its_experiment(root: Path, store: ArtifactStore) -> None:
    """The comparison belongs to no experiment. Without this, a missing GPU would score the champion on the CPU."""
    (root / "experiments" / "mine.yaml").write_text("technique: lora\ngpu: {min_memory_gb: 24}\n")
    for name, need in (("mine", DeviceNeed(1, 24, required=True)), ("gone", DeviceNeed())):
        adapter = Spec("adapter", config={"of": name})
        draft = store.begin(adapter)
        (draft.out / "adapter.txt").write_text(name)
        reference = store.commit(draft, {}, {"experiment": name}).reference
        owner = trained_by(Project(root), store, Spec("scores", {"adapter": reference}))
        assert device_need(Project(root), owner, "scores") == need
    assert trained_by(Project(root), store, Spec("prompt_baseline")) is None
