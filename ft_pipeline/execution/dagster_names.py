"""The project's names on its Dagster instance, from the section `dagster` of project.yaml.

Other projects may use the same instance. Within the project, and in its store, an asset has its short name.
"""

from collections.abc import Callable, Iterable
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project, served_root, serving
from ft_pipeline.settings.instance import DagsterSettings

STARTED_BY = "ft/started_by"
"""Tag of the runs of `ft run`: who started them."""
PARTITION = "dagster/partition"
"""Dagster's tag of a run: its experiment."""
PROJECT_TAG = "ft/project"
"""Tag of assets and jobs: the name of the project."""


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def in_its_project(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return a function that Dagster calls later, for the project for which definitions are made now."""
    root = served_root()

    @wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with serving(root):
            return function(*arguments, **named)

    return call


def dagster_settings() -> DagsterSettings:
    """Return the settings when the definitions were loaded. The defaults if project.yaml is missing (a volume
    that is not mounted) or invalid: the graph must load, and every run, sensor and schedule reports the error."""
    return _settings_of(served_root())


@cache
def _settings_of(root: Path | None) -> DagsterSettings:
    try:
        return Project.find(root).settings.dagster
    except UserError:
        return DagsterSettings()


def asset_key(asset: str) -> dg.AssetKey:
    """Return the key of an asset of this project."""
    return dg.AssetKey([*dagster_settings().key_prefix, asset])


def asset_keys(assets: Iterable[str]) -> list[dg.AssetKey]:
    """Return the keys of assets of this project."""
    return [asset_key(asset) for asset in assets]


def asset_name(key: dg.AssetKey) -> str:
    """Return the name of an asset of this project within the project."""
    return key.path[-1]


def is_ours(key: dg.AssetKey) -> bool:
    """Return whether a key has the prefix of this project."""
    return list(key.path[:-1]) == dagster_settings().key_prefix


def asset_of_step(step_key: str) -> str:
    """Return the name of the asset that a step of a run materializes."""
    return step_key.removeprefix("".join(f"{part}__" for part in dagster_settings().key_prefix))


def prefixed(name: str) -> str:
    """Return the name of a job, schedule, sensor or partitions definition of this project."""
    return "_".join([*dagster_settings().key_prefix, name])


def experiment_of(run: dg.DagsterRun) -> str | None:
    """Return the experiment that a run is for; None if it has no partition."""
    return run.tags.get(PARTITION)


def terminal_user(run: dg.DagsterRun) -> str | None:
    """Return who started a run in the terminal (`cli anna`); None if Dagster started it.

    A run that the UI executes again has the tags of the first one.
    """
    return run.tags.get(STARTED_BY) if run.parent_run_id is None else None


def is_own_run(run: dg.DagsterRun) -> bool:
    """Return whether a run is this project's: by the keys that it selects, else by the tag of the project.

    A run with neither, of an older version, counts only for a project without a prefix.
    """
    if run.asset_selection:
        return all(is_ours(key) for key in run.asset_selection)
    if PROJECT_TAG in run.tags:
        return run.tags[PROJECT_TAG] == project_name() and run.job_name.startswith(prefixed(""))
    return not dagster_settings().key_prefix


def concerns_project(run: dg.DagsterRun) -> bool:
    """Return whether a run has something of this project, perhaps beside others."""
    return is_own_run(run) or any(map(is_ours, run.asset_selection or ()))


def project_tag() -> dict[str, str]:
    """Return the tag of every job, and of every run that `ft` starts."""
    return {PROJECT_TAG: project_name()}


def asset_tags() -> dict[str, str]:
    """Return the tags of every asset."""
    return project_tag() | dagster_settings().tags


def project_name() -> str:
    """Return the name in project.yaml; `unknown` if the file is missing or invalid."""
    return _name_of(served_root())


@cache
def _name_of(root: Path | None) -> str:
    try:
        return Project.find(root).settings.name
    except UserError:
        return "unknown"
