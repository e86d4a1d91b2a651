"""`ft run` of one asset that dies right after its run has started, before the first step: `python -m … PROJECT`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.execution.run import RunRequest, run
from ft_pipeline.project import Project

handle_event = dg.DagsterInstance.handle_new_event


def handle_and_die(self: dg.DagsterInstance, event: dg.EventLogEntry, **more: Any) -> None:
    handle_event(self, event, **more)
    if event.dagster_event_type == dg.DagsterEventType.RUN_START:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    dg.DagsterInstance.handle_new_event = handle_and_die  # type: ignore[method-assign]
    run(RunRequest(Project(Path(sys.argv[1])), select=("raw_alpaca",)))
