"""A small Dagster job around the tests' worker.

As a program it runs that job with Dagster's multiprocess executor, in a separate instance:
`python -m … STORE KIND CONFIG_JSON DAGSTER_HOME`.
"""

import json
import os
import signal
import sys
from pathlib import Path

import dagster as dg

from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers.launchers import Launcher, LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec

PARTITIONS = dg.StaticPartitionsDefinition(["qlora"])


def make_asset(
    store: Path, kind: str, config: dict, retries: int = 0, launcher: Launcher | None = None
) -> dg.AssetsDefinition:
    """An asset like those of the pipeline: it builds the artifact of a spec."""

    @dg.asset(name="adapter", partitions_def=PARTITIONS, retry_policy=dg.RetryPolicy(max_retries=retries))
    def adapter(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        started = launcher or LocalLauncher("ft_pipeline_tests.execution.fake_worker")
        spec = Spec(kind, config=config)
        built = build_artifact(context, ArtifactStore(store), spec, device=True, launcher=started)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(built.artifact.fingerprint), metadata={"reused": built.reused}
        )

    return adapter


def make_job() -> dg.JobDefinition:
    """The job that FT_TEST_JOB describes: Dagster rebuilds it in the step's process."""
    store, kind, config = json.loads(os.environ["FT_TEST_JOB"])
    job = dg.define_asset_job("train", selection="*", executor_def=dg.multiprocess_executor)
    return dg.Definitions(assets=[make_asset(Path(store), kind, config)], jobs=[job]).resolve_job_def("train")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["FT_TEST_JOB"] = json.dumps([sys.argv[1], sys.argv[2], json.loads(sys.argv[3])])
    with dg.instance_for_test(temp_dir=sys.argv[4]) as instance:
        job = dg.reconstructable(make_job)
        done = dg.execute_job(job, instance, tags={"dagster/partition": "qlora"})
        sys.exit(0 if done.success else 1)
