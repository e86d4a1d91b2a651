"""Tables: from raw bytes to rows, accepted or set aside with a reason, and to conversations with a split."""

from ft_pipeline.defs.automation_conditions import FOLLOW_ALL_INPUTS, FOLLOW_SOUND_INPUTS
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import conversations, quarantine, tables

assets = [
    *(asset_of(step, FOLLOW_SOUND_INPUTS) for step in (*tables.STEPS, conversations.STEP)),
    asset_of(quarantine.STEP, FOLLOW_ALL_INPUTS),
]
