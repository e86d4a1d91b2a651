"""Runs of `ft run` and checks of experiments are recorded so that the UI lists them, and can execute a run again."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG

from ft_pipeline import scaffold
from ft_pipeline.events import StepEvent, listening
from ft_pipeline.execution.dagster_names import PARTITION
from ft_pipeline.execution.instance import open_instance
from ft_pipeline.execution.local_runs import execute_everything
from ft_pipeline.execution.partitions import add_partitions
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.execution.run import RunRequest, run
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, BuildContext, CheckSpec, SpecContext, Step
from ft_pipeline.store.spec import Spec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> Project:
    root = scaffold.create(tmp_path / "messages", example=False, small_example="classification")
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    (root / "experiments" / "lora.yaml").write_text(f"base_model: {tiny_base}\ntechnique: lora\n", encoding="utf-8")
    return Project(root)


@pytest.fixture
def instance(project: Project) -> Iterator[dg.DagsterInstance]:
    with open_instance() as opened:
        yield opened


def test_a_run_of_ft_run_belongs_to_a_job_of_the_code_location(project: Project, instance: dg.DagsterInstance) -> None:
    assert run(RunRequest(project, select=("raw_alpaca", "experiment"))).succeeded
    (record,) = instance.get_runs()
    assert record.job_name == "everything" and record.status == dg.DagsterRunStatus.SUCCESS
    assert record.tags[PARTITION] == "lora"
    assert record.asset_selection == {dg.AssetKey("experiment"), dg.AssetKey("raw_alpaca")}
    assert record.remote_job_origin is not None and record.remote_job_origin.location_name == "ft_pipeline"
    assert record.remote_job_origin.repository_origin.repository_name == "__repository__"


def test_a_run_that_ctrl_c_ends_is_recorded_as_canceled(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(context: BuildContext) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    monkeypatch.setitem(STEPS, "experiment", replace(STEPS["experiment"], build=interrupt))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may let what it starts ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(RunRequest(project, select=("experiment",)))
    finally:
        signal.signal(signal.SIGINT, before)
    (record,) = instance.get_runs()
    assert record.status == dg.DagsterRunStatus.CANCELED


@pytest.mark.parametrize("tag", [RESUME_RETRY_TAG, pytest.param(ASSET_RESUME_RETRY_TAG, marks=pytest.mark.long)])
def test_a_run_from_failure_reads_no_older_settings(project: Project, instance: dg.DagsterInstance, tag: str) -> None:
    assert run(RunRequest(project, select=("experiment",))).succeeded

    def resume() -> tuple[bool, str]:
        said: list[StepEvent] = []
        with listening(StepEvent, said.append):
            done = execute_everything(instance, project, ["base_model"], "lora", {tag: "true"})
        return done.success, said[-1].message

    assert resume() == (True, "")
    with (project.root / "experiments" / "lora.yaml").open("a", encoding="utf-8") as file:
        file.write("training: {max_length: 256}\n")
    assert resume() == (
        False,
        "experiments/lora.yaml has changed since the run that failed. Choose *Re-execute all*, or run `ft run`.",
    )
    assert run(RunRequest(project, select=("experiment",))).succeeded
    assert resume() == (True, "")


def test_experiments_do_not_overwrite_each_others_checks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(context: BuildContext) -> dict[str, Any]:
        return {"checks": {"fits": {"passed": context.spec.config["name"] == "passes", "message": "too large"}}}

    monkeypatch.setitem(STEPS, "probe", STEPS["experiment"])  # removed after the test

    def spec(context: SpecContext) -> Spec:
        return Spec("probe", config={"name": context.experiment})

    fits = (CheckSpec("fits", "Fits."),)
    STEPS["probe"] = Step(
        name="probe", stage="training", about="", spec=spec, per_experiment=True, build=build, checks=fits
    )
    probe = asset_of(STEPS["probe"], graph=())
    key = dg.AssetCheckKey(dg.AssetKey("probe"), "fits")
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, ["fails", "passes"])
        for name in ("fails", "passes"):
            dg.materialize([probe], partition_key=name, instance=instance, resources=RESOURCES, raise_on_error=False)
        recorded = instance.event_log_storage.get_asset_check_partition_info([key])
    states = {info.partition_key: info.latest_execution_status.value for info in recorded}
    assert states == {"fails": "FAILED", "passes": "SUCCEEDED"}
