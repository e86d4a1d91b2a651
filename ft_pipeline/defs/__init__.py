"""The Dagster graph: the assets of all stages, sensors, schedules and the executor."""
