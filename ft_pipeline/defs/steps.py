"""The assets: of every step, from the raw files to the report, and those of features."""

from pkgutil import resolve_name

from ft_pipeline import features
from ft_pipeline.defs.automation_conditions import FOLLOW_ALL_INPUTS, FOLLOW_SOUND_INPUTS
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.steps import load_step, modules, raw, tables

AUTOMATION = {step.name: FOLLOW_SOUND_INPUTS for step in tables.STEPS} | {
    "conversations": FOLLOW_SOUND_INPUTS,
    "quarantine": FOLLOW_ALL_INPUTS,
}
"""When an asset is materialized automatically. The others never are."""

steps = (*raw.STEPS, *tables.STEPS, *map(load_step, modules()))
# A plan lists steps that are ready at the same time in this order: by stage.
assets = [
    *(asset_of(step, AUTOMATION.get(step.name)) for step in sorted(steps, key=lambda step: step.stage)),
    *map(resolve_name, features.assets().values()),
]
