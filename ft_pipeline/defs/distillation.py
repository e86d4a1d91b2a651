"""Distillation: the teacher answers unlabelled prompts, and its answers are filtered like human rows."""

from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import distilled, teacher_answers

assets = [asset_of(step.STEP) for step in (teacher_answers, distilled)]
