"""Shows that a step waits for a device: in the run's log and timeline in the UI, and to listeners in this process."""

import dagster as dg
from dagster._core.events import EngineEventData

from ft_pipeline.events import StepEvent, publish
from ft_pipeline.execution.dagster_names import asset_name

MARKER = "waits for a device"
"""Name of the wait in the timeline of the run."""


class DeviceWait:
    """The wait of one step."""

    def __init__(self, context: dg.AssetExecutionContext, experiment: str | None) -> None:
        self._context = context
        self._experiment = experiment
        self._waits = False

    def show(self, reason: str) -> None:
        """Show that the step waits, and why. Called again when the reason changes."""
        self._report(reason, EngineEventData(marker_start=None if self._waits else MARKER))
        self._waits = True
        asset = asset_name(self._context.asset_key)
        publish(StepEvent(asset, self._experiment, "waiting", message=reason))

    def end(self) -> None:
        """Show that the step has its device, if it waited."""
        if self._waits:
            self._report("has its device", EngineEventData(marker_end=MARKER))

    def _report(self, message: str, data: EngineEventData) -> None:
        step = str(self._context.op_handle)
        self._context.instance.report_engine_event(message, self._context.run, data, step_key=step)
