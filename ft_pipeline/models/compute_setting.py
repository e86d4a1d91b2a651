"""The compute type without importing torch: read FT_COMPUTE_DTYPE, and query a process that imports torch."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ft_pipeline.errors import UserError

CHOICE = "FT_COMPUTE_DTYPE"
"""Environment variable: `auto` (the default), `float32` or `bfloat16`."""
CHOICES = ("auto", "float32", "bfloat16")
_PATIENCE = 120.0
"""Timeout in seconds of a process that imports torch on a busy machine."""


def requested_dtype() -> str:
    """Return the value of FT_COMPUTE_DTYPE; `auto` if it is not set. UserError for an unknown type."""
    choice = os.environ.get(CHOICE) or "auto"
    if choice not in CHOICES:
        raise UserError(f"{CHOICE}={choice!r} is not a compute type. Set it to auto, float32 or bfloat16.")
    return choice


def ask_compute(*, measure: bool = False, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `device`, `dtype`, `reason` and, with `measure`, `gflops` by type, from a separate process.

    environment: of that process; by default that of this process. UserError for an unknown FT_COMPUTE_DTYPE, and if
    torch cannot be imported.
    """
    requested_dtype()
    command = [sys.executable, "-P", "-m", "ft_pipeline.models.compute_dtype", *(["--measure"] if measure else [])]
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=True
        ).stdout
        facts: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        raise UserError("torch cannot be imported in this Python. Reinstall the project's packages.") from error
    return facts
