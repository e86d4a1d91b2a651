"""The fake worker, interrupted by SIGINT while it starts."""

import os
import signal
import sys

from ft_pipeline.execution.workers.worker import run
from ft_pipeline_tests.execution.fake_worker import WORKERS

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGINT)
    run(sys.argv[1:], WORKERS)
