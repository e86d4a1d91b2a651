"""The resources of the code location."""

import dagster as dg

from ft_pipeline.execution.resources import RESOURCES


@dg.definitions
def resources() -> dg.Definitions:
    """Return the project and its store, as assets, schedules and sensors get them."""
    return dg.Definitions(resources=RESOURCES)
