"""The worker with the test's jobs in place of the pipeline's."""

import sys

from ft_pipeline.execution.worker import run

JOBS = ("count", "refuse", "crash", "full_disk", "fill", "leave", "family", "hub", "rank", "threads")
WORKERS = {name: f"ft_pipeline_tests.execution.fake_jobs:{name}" for name in JOBS}

if __name__ == "__main__":
    run(sys.argv[1:], WORKERS)
