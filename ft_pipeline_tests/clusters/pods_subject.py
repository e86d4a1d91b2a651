"""A step that counts to `LAST` and resumes where it was, in a pod that the tests take away."""

import sys
import time
from typing import Any

import dagster as dg

from ft_pipeline.execution import pods
from ft_pipeline.execution.partitions import add_partitions
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.step import STEPS, BuildContext, Step
from ft_pipeline.store.spec import Spec

LAST = 8


def _count(build: BuildContext) -> dict[str, Any]:
    counter = build.project.root / "counted"
    first = int(counter.read_text()) if counter.exists() else 0
    for number in range(first + 1, LAST + 1):
        time.sleep(0.5)
        partial = counter.with_suffix(".part")
        partial.write_text(str(number))
        partial.replace(counter)
    (build.out / "count.txt").write_text(str(first))
    return {"resumed_from": first}


STEP = Step(
    name="counted",
    stage="training",
    about="Counts.",
    spec=lambda context: Spec("counted"),
    per_experiment=True,
    gpu=True,
    build=_count,
)
STEPS[STEP.name] = STEP
counted = asset_of(STEP, graph=())


def count_job() -> dg.JobDefinition:
    """The job of a run, in the processes of the run and of its pods."""
    job = dg.define_asset_job("count", selection=[counted])
    defined = dg.Definitions([counted], jobs=[job], executor=pods.executor(), resources=RESOURCES)
    return defined.resolve_job_def("count")


def run() -> None:
    """Run the job for the experiment `lora` as the pod of a run would, and exit with its result."""
    with dg.DagsterInstance.get() as instance:
        add_partitions(instance, ["lora"])
        recipe = dg.reconstructable(count_job)
        result = dg.execute_job(recipe, instance, tags={"dagster/partition": "lora"})
        sys.exit(0 if result.success else 1)
