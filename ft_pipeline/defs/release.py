"""Release: the champion, its model card, and the report of the comparison that decided it."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import champion, model_card, report

assets = [asset_of(step.STEP) for step in (champion, model_card, report)]
