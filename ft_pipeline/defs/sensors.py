"""A sensor of a function, with the project's prefix before its name."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from ft_pipeline.execution.dagster_names import in_its_project, prefixed

POLL_SECONDS = 30


def about(function: Callable[..., Any]) -> str:
    """Return what the UI says of a sensor or a schedule: the docstring of its function."""
    return " ".join((function.__doc__ or "").split())


def sensor_of(
    function: Callable[[dg.SensorEvaluationContext], Any],
    seconds: int = POLL_SECONDS,
    target: dg.AssetSelection | None = None,
) -> dg.SensorDefinition:
    """Return the sensor of a function, which is on. seconds: between two of its ticks."""
    make = dg.sensor(
        name=prefixed(function.__name__),
        description=about(function),
        target=target,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=seconds,
    )
    return make(in_its_project(function))
