"""The assets: of every step, from the raw files to the report, and those of features."""

from collections.abc import Collection
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from dagster import AssetsDefinition
from dagster import AutomationCondition as Condition

from ft_pipeline import features
from ft_pipeline.errors import UserError
from ft_pipeline.execution.step_asset import asset_of
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, used_steps
from ft_pipeline.steps import load_step, modules, raw, tables

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


def load_steps() -> None:
    """Fill STEPS. A plan lists steps that are ready at the same time in this order: by stage."""
    steps = (*raw.STEPS, *tables.STEPS, *map(load_step, modules()))
    STEPS.update({step.name: step for step in sorted(steps, key=lambda step: step.stage)})


def graph_of_project() -> set[str]:
    """Return the assets that the graph of the served project has: those that its settings and files ask for."""
    load_steps()
    try:
        project = Project.find()
        others = {name for name, target in features.assets().items() if _is_used(target, project)}
    except UserError:  # every run reports that error
        return whole_graph()
    return used_steps(project) | others


def whole_graph() -> set[str]:
    """Return the assets of all steps."""
    load_steps()
    return {*STEPS, *features.assets()}


def _is_used(target: str, project: Project) -> bool:
    """Return whether a project has an asset of a feature that is no step."""
    is_used: bool = import_module(target.partition(":")[0]).used(project)
    return is_used


def assets(graph: Collection[str]) -> list[AssetsDefinition]:
    """Return the assets of a graph."""
    of_steps = [asset_of(step, graph, AUTOMATION.get(name)) for name, step in STEPS.items() if name in graph]
    others = (target for name, target in features.assets().items() if name in graph)
    return [*of_steps, *(resolve_name(target)() for target in others)]
