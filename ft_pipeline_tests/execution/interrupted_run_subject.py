"""`ft run` of one asset that Ctrl-C ends within its step: `python -m … PROJECT`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.run import RunRequest, run
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS


def interrupt(context: Any) -> dict[str, Any]:
    """Build nothing."""
    os.kill(os.getpid(), signal.SIGINT)
    return {}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started the tests may ignore it
    load_steps()
    STEPS["experiment"] = replace(STEPS["experiment"], build=interrupt)
    run(RunRequest(Project(Path(sys.argv[1])), select=("experiment",)))
