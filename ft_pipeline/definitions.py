"""The entry point that Dagster loads (workspace.yaml, dg.toml), and the definitions of any project."""

from collections.abc import Collection

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.supported_systems import unsupported_system_message

if (message := unsupported_system_message()) is not None:  # before an import that fails there
    raise UserError(message)


@dg.definitions
def defs() -> dg.Definitions:
    """Return all definitions of the project in `FT_PROJECT`, or in the current folder."""
    from ft_pipeline.defs import executor

    return dg.Definitions.merge(of_served_project(), executor.definitions())


def of_served_project() -> dg.Definitions:
    """Return the definitions of the project that is served, but for the executor, which the code location chooses."""
    from ft_pipeline.execution.graph import graph_of_project

    return _of_graph(graph_of_project())


def of_all_steps() -> dg.Definitions:
    """Return the definitions with every step, whether the project asks for it or not: a command may run any."""
    from ft_pipeline.defs import executor
    from ft_pipeline.execution.graph import whole_graph

    return dg.Definitions.merge(_of_graph(whole_graph()), executor.definitions())


def _of_graph(graph: Collection[str]) -> dg.Definitions:
    from ft_pipeline.defs import automation, housekeeping, notifications
    from ft_pipeline.defs.steps import assets
    from ft_pipeline.execution.resources import RESOURCES

    return dg.Definitions.merge(
        dg.Definitions(assets=assets(graph), resources=RESOURCES),
        automation.definitions(graph),
        notifications.definitions(),
        housekeeping.definitions(),
    )
