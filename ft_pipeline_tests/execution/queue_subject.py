"""Runs one asset that needs a device, over the instance of DAGSTER_HOME: `python -m … STORE KIND CONFIG_JSON`."""

import json
import sys
from pathlib import Path

import dagster as dg

from ft_pipeline.execution import orphaned_runs
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.device_pool import pool_of_devices
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec


@dg.asset(pool=pool_of_devices())
def adapter(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Builds an artifact with a job of the tests."""
    store = ArtifactStore(Path(sys.argv[1]))
    orphaned_runs.lock_run(context, store.root)
    launcher = LocalLauncher("ft_pipeline_tests.execution.fake_worker")
    build_artifact(context, store, Spec(sys.argv[2], config=json.loads(sys.argv[3])), device=True, launcher=launcher)
    return dg.MaterializeResult()


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        dg.materialize([adapter], instance=instance, tags={"subject": sys.argv[3]})
