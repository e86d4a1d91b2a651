"""The assets: of every step, from the raw files to the report, and those of features."""

from collections.abc import Collection
from pkgutil import resolve_name
from typing import Any

from dagster import AssetsDefinition
from dagster import AutomationCondition as Condition

from ft_pipeline import features
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.step import STEPS
from ft_pipeline.steps import tables

FAILED_BEFORE_TODAY = Condition.execution_failed() & Condition.cron_tick_passed("0 0 * * *")
"""As with snapshots, a run that failed (a full disk, a power cut) is repeated the next day (UTC), not at each tick."""


def _follow(changed: Any) -> Any:  # Dagster's types of combined conditions are incompatible
    """Rebuild an asset after `changed` or after a change of its code, and the next day if its run failed.

    It must have been materialized before, and neither it nor one of its dependencies may be in progress.

    Dagster's eager() would fire on every materialization of a dependency, even one with the same data version.
    """
    return (
        (changed | Condition.code_version_changed() | FAILED_BEFORE_TODAY).since_last_handled()
        & ~Condition.missing()
        & ~Condition.any_deps_missing()
        & ~Condition.any_deps_in_progress()
        & ~Condition.in_progress()
    )


FOLLOW_SOUND_INPUTS = (
    _follow(Condition.any_deps_match(Condition.data_version_changed() | Condition.will_be_requested()))
    & Condition.all_deps_blocking_checks_passed()
).with_label("follow_sound_inputs")
"""Follows the data versions of its inputs, in the same run if possible, unless a blocking check failed."""

FOLLOW_ALL_INPUTS = _follow(Condition.any_deps_match(Condition.data_version_changed())).with_label("follow_all_inputs")
"""Follows the data versions of its inputs even if a check failed, to show what failed."""


AUTOMATION = {step.name: FOLLOW_SOUND_INPUTS for step in tables.STEPS} | {
    "conversations": FOLLOW_SOUND_INPUTS,
    "quarantine": FOLLOW_ALL_INPUTS,
}
"""When an asset is materialized automatically. The others never are."""


def assets(graph: Collection[str]) -> list[AssetsDefinition]:
    """Return the assets of a graph."""
    load_steps()
    of_steps = [asset_of(step, graph, AUTOMATION.get(name)) for name, step in STEPS.items() if name in graph]
    others = (target for name, target in features.assets().items() if name in graph)
    return [*of_steps, *(resolve_name(target)() for target in others)]
