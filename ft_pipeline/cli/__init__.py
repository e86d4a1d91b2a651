"""The command `ft`: its commands with their options, and their output in a terminal."""

import sys

from ft_pipeline.supported_systems import unsupported_system_message

if (message := unsupported_system_message()) is not None:
    sys.stderr.write(f"ft: {message}\n")
    sys.exit(2)

from ft_pipeline.cli.app import app, main

__all__ = ["app", "main"]
