"""The worker with the test's jobs in place of the pipeline's."""

import os
import sys

from ft_pipeline.execution.workers import process_guard
from ft_pipeline.execution.workers.worker import run

JOBS = (
    *("count", "refuse", "crash", "full_disk", "fill", "leave", "family", "hub", "lost", "rank", "threads"),
    *("hang", "busy", "surroundings"),
)
NO_PRCTL = "FT_TEST_NO_PRCTL"
"""Environment variable: worker and guard run without prctl, which only Linux has."""
WORKERS = {name: f"ft_pipeline_tests.execution.fake_jobs:{name}" for name in JOBS}

if __name__ == "__main__":
    if os.environ.get(NO_PRCTL):
        process_guard._prctl = lambda option, value: None
    run(sys.argv[1:], WORKERS)
