"""`ft …`: each command with its options, and how its answer looks in a terminal."""

from ft_pipeline.cli.commands import app, main

__all__ = ["app", "main"]
