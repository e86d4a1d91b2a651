"""A program that ends with whoever started it: `python -m ft_pipeline.execution.watched PROGRAM ARGUMENTS…`."""

import os
import sys

from ft_pipeline.execution import guard

if __name__ == "__main__":
    guard.split()
    os.execv(sys.argv[1], sys.argv[1:])
