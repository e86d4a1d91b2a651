"""The assets of all steps, as Dagster knows them."""

import dagster as dg

from ft_pipeline.definitions import of_run
from ft_pipeline.execution.dagster_names import asset_name
from ft_pipeline.execution.graph import whole_graph
from ft_pipeline.step import STEPS


def of_all_steps() -> dg.Definitions:
    """Return the definitions of every step, whether the project uses it or not."""
    return of_run(whole_graph())


ASSETS: dict[str, dg.AssetsDefinition] = {
    asset_name(asset.key): asset
    for asset in of_all_steps().assets or ()
    if isinstance(asset, dg.AssetsDefinition) and asset_name(asset.key) in STEPS
}
