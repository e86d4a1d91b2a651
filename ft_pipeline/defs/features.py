"""The assets of the features."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.features import modules_of_steps
from ft_pipeline.steps import load_step

assets = [asset_of(load_step(name)) for name in modules_of_steps()]
