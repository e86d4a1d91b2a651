"""Runs one asset in this process, over the instance of DAGSTER_HOME, for the tests to kill: `python -m … STORE`."""

import sys
from pathlib import Path

import dagster as dg

from ft_pipeline.execution import orphaned_runs
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec


@dg.asset
def adapter(context: dg.AssetExecutionContext) -> None:
    """Hangs, with children."""
    store = ArtifactStore(Path(sys.argv[1]))
    orphaned_runs.lock_run(context, store.root)
    launcher = LocalLauncher("ft_pipeline_tests.execution.fake_worker")
    build_artifact(context, store, Spec("family"), device=True, launcher=launcher)


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        dg.materialize([adapter], instance=instance)
