"""The compute type without importing torch: read FT_COMPUTE_DTYPE, and query a process that imports torch."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ft_pipeline.errors import UserError

COMPUTE_DTYPE_VARIABLE = "FT_COMPUTE_DTYPE"
"""Environment variable: `auto` (the default), `float32` or `bfloat16`."""
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
"""Its values."""
_TIMEOUT_SECONDS = 120.0
"""Timeout in seconds of a process that imports torch on a busy machine."""


def requested_dtype() -> str:
    """Return the value of FT_COMPUTE_DTYPE; `auto` if it is not set. UserError for an unknown type."""
    choice = os.environ.get(COMPUTE_DTYPE_VARIABLE) or "auto"
    if choice not in COMPUTE_DTYPES:
        raise UserError(
            f"{COMPUTE_DTYPE_VARIABLE}={choice!r} is not a compute type. Set it to auto, float32 or bfloat16."
        )
    return choice


def query_compute_dtype(*, measure: bool = False, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `device`, `dtype`, `reason` and, with `measure`, `gflops` by type, from a separate process.

    environment: the variables of that process; by default those of this one. UserError for an unknown
    FT_COMPUTE_DTYPE, and if torch cannot be imported.
    """
    requested_dtype()
    command = [sys.executable, "-P", "-m", "ft_pipeline.models.compute_dtype", *(["--measure"] if measure else [])]
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        ).stdout
        facts: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        raise UserError("torch cannot be imported in this Python. Reinstall the project's packages.") from error
    return facts
