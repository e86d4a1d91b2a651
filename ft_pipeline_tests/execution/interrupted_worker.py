"""The fake worker, asked to stop while it still starts."""

import os
import signal
import sys

from ft_pipeline.execution.workers.worker import run
from ft_pipeline_tests.execution.fake_worker import WORKERS

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGINT)
    run(sys.argv[1:], WORKERS)
