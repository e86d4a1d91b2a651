"""The entry point that Dagster loads (workspace.yaml, dg.toml), and the definitions of any project."""

import warnings
from collections.abc import Set
from functools import cache

import dagster as dg
from dagster._core.definitions.definitions_load_context import StateBackedDefinitionsLoader

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
    with warnings.catch_warnings():  # Dagster warns of a preview function that it calls itself
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _ServedProject().build_defs()


class _ServedProject(StateBackedDefinitionsLoader[list[str]]):
    """The graph that the code location loaded, in each process of a run: what the run makes may change what the project
    uses."""

    @property
    def defs_key(self) -> str:
        """Return a key that each project of a code location has to itself."""
        from ft_pipeline.execution.dagster_names import asset_key

        return f"ft_pipeline/{asset_key('graph').to_user_string()}"

    def fetch_state(self) -> list[str]:
        from ft_pipeline.execution.graph import graph_of_project

        return sorted(graph_of_project())

    def defs_from_state(self, state: list[str]) -> dg.Definitions:
        return _of_graph({*state})


def of_run(assets: Set[str]) -> dg.Definitions:
    """Return the definitions of the project with further assets: a command may run one that the project does not use.
    Those that neither uses are no dependencies of the run, as in the UI."""
    from ft_pipeline.execution.graph import graph_of_project

    return _once_of_graph(frozenset(graph_of_project() | assets))


@cache
def _once_of_graph(graph: frozenset[str]) -> dg.Definitions:
    return _of_graph(graph)


def _of_graph(graph: Set[str]) -> dg.Definitions:
    from ft_pipeline.defs import automation, housekeeping, notifications
    from ft_pipeline.defs.steps import assets
    from ft_pipeline.execution.resources import RESOURCES

    return dg.Definitions.merge(
        dg.Definitions(assets=assets(graph), resources=RESOURCES),
        automation.definitions(graph),
        notifications.definitions(),
        housekeeping.definitions(),
    )
