"""The command `ft`: its commands with their options, and their output in a terminal."""

import sys

from ft_pipeline.supported_systems import refusal

if (why := refusal()) is not None:
    sys.stderr.write(f"ft: {why}\n")
    sys.exit(2)

from ft_pipeline.cli.commands import app, main

__all__ = ["app", "main"]
