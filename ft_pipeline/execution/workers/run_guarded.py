"""Runs a program, and ends it when the process that started it ends.

python -m ft_pipeline.execution.workers.run_guarded PROGRAM ARGUMENTS…
"""

import os
import sys

from ft_pipeline.execution.workers import process_guard

if __name__ == "__main__":
    process_guard.fork_guarded_worker()
    os.execv(sys.argv[1], sys.argv[1:])
