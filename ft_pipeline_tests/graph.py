"""The assets of the steps, in the graph of this repository's project."""

import dagster as dg

from ft_pipeline.definitions import defs
from ft_pipeline.execution.dagster_names import asset_name
from ft_pipeline.step import STEPS

ASSETS: dict[str, dg.AssetsDefinition] = {
    asset_name(asset.key): asset
    for asset in defs().assets or ()
    if isinstance(asset, dg.AssetsDefinition) and asset_name(asset.key) in STEPS
}
