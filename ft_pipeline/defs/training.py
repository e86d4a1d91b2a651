"""Training: one experiment's settings, base model, tokens, memory estimate, adapter and merged model."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import adapter, base_model, experiment, memory_estimate, merged_model, training_data

steps = (experiment, base_model, training_data, memory_estimate, adapter, merged_model)
assets = [asset_of(step.STEP) for step in steps]
