"""Sources: snapshots by content of the user's folders under data/raw."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import raw

assets = [asset_of(step) for step in raw.STEPS]
