"""Kubernetes without a cluster: the image's command, the pods' objects against the published schemas, evictions."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._api.list_repositories import sync_list_repositories_grpc
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from ft_pipeline import scaffold
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.machines import limit_run_time
from ft_pipeline.execution.pods import pod_configs
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline_tests.clusters.kubernetes_api import Cluster, check, running_cluster, start_container
from ft_pipeline_tests.execution.conftest import wait_until
from ft_pipeline_tests.graph import ASSETS

ROOT = Path(__file__).parents[2]
MACHINE = """
gpu: {count: 2, min_memory_gb: 40}
machine:
  cpus: 8
  memory_gb: 64
  max_hours: 1.5
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  node_selector: {accelerator: a100}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = scaffold.create(tmp_path / "shop", example=True)
    monkeypatch.setenv("FT_PROJECT", str(root))
    monkeypatch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
    load_steps()  # before the experiment: other tests read the definitions that this loads once
    (root / "experiments" / "large.yaml").write_text(f"technique: lora\n{MACHINE}")
    return root


# --- the image --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def grpc_args(values: str, port: int) -> list[str]:
    """What the chart's template gives the container of the code location, with another address."""
    document = yaml.safe_load((ROOT / "deploy" / "kubernetes" / values).read_text())
    (deployment,) = document.get("dagster-user-deployments", document)["deployments"]
    return ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port), *deployment["dagsterApiGrpcArgs"]]


@pytest.mark.long
@pytest.mark.waits
def test_the_image_serves_the_definitions_with_the_arguments_that_dagster_gives_it(root: Path) -> None:
    port = free_port()
    server = start_container(grpc_args("values.yaml", port), {"PYTHONPATH": str(ROOT)})
    client = DagsterGrpcClient(port=port, host="127.0.0.1")

    def answers() -> bool:
        assert server.poll() is None, "the container ended"
        try:
            return client.ping("ready")["echo"] == "ready"
        except DagsterUserCodeUnreachableError:
            return False

    try:
        wait_until(answers, "the code location is served", 120)
        (symbol,) = sync_list_repositories_grpc(client).repository_symbols
        assert symbol.repository_name == "__repository__"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.mark.parametrize("values", ["values.yaml", "user_deployment.yaml"])
def test_the_values_run_the_same_location(values: str) -> None:
    assert grpc_args(values, 1)[7:] == ["--module-name", "ft_pipeline.definitions"]


def test_the_values_for_a_code_location_contain_nothing_of_the_release() -> None:
    """They are values of the chart dagster-user-deployments, which somebody's release already has beside it."""
    whole = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text())
    alone = yaml.safe_load((ROOT / "deploy/kubernetes/user_deployment.yaml").read_text())
    assert set(alone) == {"dagsterHome", "postgresqlSecretName", "deployments"}
    assert alone["deployments"] == whole["dagster-user-deployments"]["deployments"]


# --- the pods ---------------------------------------------------------------------------------------------------------


def job_of(step: str, experiment: str | None) -> dict[str, Any]:
    """The Job that Dagster makes of the step's configuration, as it is sent to Kubernetes."""
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import (
        DagsterK8sJobConfig,
        UserDefinedDagsterK8sConfig,
        construct_dagster_k8s_job,
        get_user_defined_k8s_config,
    )
    from kubernetes.client import ApiClient

    config = UserDefinedDagsterK8sConfig.from_dict(pod_configs(experiment)[step])
    values = yaml.safe_load((ROOT / "deploy/kubernetes/user_deployment.yaml").read_text())["deployments"][0]
    shared = {name: values[name] for name in ("env", "volumes")}
    location = K8sContainerContext.create_from_config(
        {"k8s": {**shared, "volume_mounts": values["volumeMounts"], "env_secrets": ["ft-pipeline"]}}
    )
    of_asset = K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(ASSETS[step].op.tags))
    merged = location.merge(of_asset).merge(K8sContainerContext(run_k8s_config=config)).run_k8s_config
    job_config = DagsterK8sJobConfig("registry.example.com/ft_pipeline:0.3.0", "/opt/dagster/dagster_home")
    job = construct_dagster_k8s_job(job_config, ["dagster", "api", "execute_step"], "step", merged)
    return ApiClient().sanitize_for_serialization(job)


def pod_of(step: str, experiment: str | None) -> dict[str, Any]:
    job = job_of(step, experiment)
    check(job)
    return job["spec"]["template"]["spec"]


def test_a_training_pod_requests_what_its_experiment_declares(root: Path) -> None:
    pod = pod_of("adapter", "large")
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "2", "memory": "64000M"}
    assert resources["requests"] == {"cpu": "8", "memory": "64000M"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["nodeSelector"] == {"accelerator": "a100"} and pod["terminationGracePeriodSeconds"] == 60
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert {"name": "FT_EXECUTOR", "value": "k8s"} in pod["containers"][0]["env"]


def test_other_steps_request_one_gpu_or_none(root: Path) -> None:
    assert pod_of("scores", "large")["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod_of("scores", "lora")["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    table = pod_of("conversations", "large")
    assert not table["containers"][0].get("resources") and not table.get("tolerations")


def test_a_comparison_that_may_score_the_champion_requests_a_gpu(root: Path) -> None:
    assert pod_of("comparison", "large")["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "dagster-k8s/config" in ASSETS["comparison"].op.tags
    assert not STEPS["comparison"].needs_gpu(Project(root))  # by itself it needs no lease, and no slot of the pool


def test_the_experiments_keys_replace_those_of_the_project(root: Path) -> None:
    with (root / "project.yaml").open("a") as file:
        file.write("machine: {memory_gb: 16, node_selector: {pool: all}}\n")
    assert pod_of("adapter", "lora")["containers"][0]["resources"]["limits"]["memory"] == "16000M"
    assert pod_of("teacher_answers", None)["nodeSelector"] == {"pool": "all"}
    large = pod_of("adapter", "large")
    assert large["containers"][0]["resources"]["limits"]["memory"] == "64000M"
    assert large["nodeSelector"] == {"accelerator": "a100"}


def test_a_broken_experiment_leaves_the_report_to_its_steps(root: Path) -> None:
    (root / "experiments" / "large.yaml").write_text("technique: magic\n")
    assert pod_configs("large") == {}


def test_the_schema_refuses_an_unknown_key(root: Path) -> None:
    job = job_of("adapter", "large")
    job["spec"]["template"]["spec"]["tolerations"][0]["effekt"] = "NoSchedule"
    with pytest.raises(Exception, match="effekt"):
        check(job)


# --- the time of a run ------------------------------------------------------------------------------------------------


def run_with_limit(root: Path, experiment: str, **tags: str) -> str | None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["large", "lora"]))
    def adapter(context: dg.AssetExecutionContext) -> None:
        limit_run_time(context, Project(root))

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([adapter], instance=instance, partition_key=experiment, tags=tags)
        return instance.get_run_by_id(result.run_id).tags.get("dagster/max_runtime")


def test_the_experiments_time_limit_is_the_runs_however_it_was_started(root: Path) -> None:
    assert run_with_limit(root, "large") == "5400"
    assert run_with_limit(root, "lora") is None
    assert run_with_limit(root, "large", **{"dagster/max_runtime": "60"}) == "60"
    assert run_with_limit(root, "large", **{"ft/started_by": "cli somebody"}) is None


# --- evictions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, Path]]:
    with running_cluster(tmp_path) as running:
        yield running


@pytest.mark.long
@pytest.mark.waits
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["evicted", "node gone"])
def test_a_step_runs_again_when_its_pod_is_gone(
    root: Path, cluster: tuple[Cluster, Path], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The run is this process; its step runs as the command of a pod. The second pod continues where the first was."""
    kubernetes, kubeconfig = cluster
    monkeypatch.setenv("FT_EXECUTOR", "k8s")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    launcher = {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "service_account_name": "dagster",
            "instance_config_map": "dagster-instance",
            "dagster_home": str(root / "dagster_home"),
            "job_image": "registry.example.com/ft_pipeline:0.3.0",
            "load_incluster_config": False,
            "kubeconfig_file": str(kubeconfig),
        },
    }
    (root / "dagster_home" / "dagster.yaml").write_text(json.dumps({"run_launcher": launcher}))
    code = "from ft_pipeline_tests.clusters.pods_subject import run; run()"
    with (root / "run.log").open("wb") as log:
        run = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=subprocess.STDOUT)
    counted = root / "counted"
    try:
        wait_until(lambda: run.poll() is not None or counted.exists(), "the step is under way", 120)
        (first,) = kubernetes.jobs
        kubernetes.signal(first, number)
        assert run.wait(180) == 0, (root / "run.log").read_text() + (root.parent / "pods.log").read_text()
    finally:
        run.kill()
    assert kubernetes.refused == [] and len(kubernetes.jobs) == 2
    (artifact,) = ArtifactStore(Project(root).store).all()
    assert artifact.summary["resumed_from"] >= 1
