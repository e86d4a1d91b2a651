"""Materializes an asset that compares what is in `scores.txt` of the project: `python -m … FOLDER`.

Building from the older scores takes until FOLDER/newer exists. FOLDER/building shows that it has begun.
"""

import sys
import time
from pathlib import Path

import dagster as dg

from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.step import STEPS, BuildContext, SpecContext, Step
from ft_pipeline.store.spec import Spec

FOLDER = Path(sys.argv[1])


def compare(build: BuildContext) -> dict:
    """Write what is compared."""
    if build.spec.config["scores"] == "older":
        (FOLDER / "building").touch()
        while not (FOLDER / "newer").exists():
            time.sleep(0.05)
    (build.out / "scores.txt").write_text(build.spec.config["scores"], encoding="utf-8")
    return {}


def spec(context: SpecContext) -> Spec:
    """Return the spec of what is compared now."""
    return Spec("comparison", config={"scores": (context.project.root / "scores.txt").read_text(encoding="utf-8")})


STEPS["comparison"] = Step(name="comparison", stage="evaluation", about="Compares.", spec=spec, build=compare)
comparison = asset_of(STEPS["comparison"], graph=())

if __name__ == "__main__":
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([comparison], instance=instance, resources=RESOURCES)
        (event,) = done.asset_materializations_for_node("comparison")
        print((event.tags or {})["dagster/data_version"])
