"""The entry point that Dagster loads (workspace.yaml, dg.toml)."""

from pathlib import Path

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.supported_systems import unsupported_system_message

if (message := unsupported_system_message()) is not None:
    raise UserError(message)


@dg.definitions
def defs() -> dg.Definitions:
    """Return all definitions in defs/."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
