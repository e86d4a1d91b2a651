"""Dagster runs that this process executes itself, without a code server: those of `ft run`.

They belong to the job `everything` of the code location, so that the UI lists them on its first page and can execute
them again.
"""

import contextlib
import uuid
from collections.abc import Collection, Mapping
from importlib import import_module

import dagster as dg
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ft_pipeline.execution.dagster_names import PARTITION, STARTED_BY, asset_keys, prefixed
from ft_pipeline.execution.orphaned_runs import lock_new_run
from ft_pipeline.project import Project
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.store.provenance import user_name

DEFINITIONS = "ft_pipeline.definitions"
CODE_LOCATION = "ft_pipeline"
"""The name of the code location, unless the project's workspace.yaml has another one."""
EVERYTHING = "everything"
"""The name of the job with all steps, without the project's prefix."""
NO_CONSOLE_LOG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def execute_everything(
    instance: dg.DagsterInstance,
    project: Project,
    assets: Collection[str],
    experiment: str | None,
    tags: Mapping[str, str],
) -> dg.JobExecutionResult:
    """Execute a run of the job `everything` for some of its assets, in this process.

    The run is locked before it exists, so that at no moment it is under way without a lock (orphaned_runs.py).
    """
    keys = frozenset(asset_keys(assets))
    definitions = import_module(DEFINITIONS).of_run(set(assets))  # can be imported once the project folder is known
    job = definitions.resolve_job_def(prefixed(EVERYTHING)).with_executor_def(dg.in_process_executor)
    run_id = str(uuid.uuid4())
    lock_new_run(project.store, run_id)
    partition = {PARTITION: experiment} if experiment is not None else {}
    run = instance.create_run_for_job(
        job.get_subset(asset_selection=keys),
        run_id=run_id,
        run_config=NO_CONSOLE_LOG,
        tags={**job.run_tags, STARTED_BY: f"cli {user_name()}", **partition, **tags},
        asset_selection=keys,
        remote_job_origin=_origin(project, job.name),
    )
    return execute_run(InMemoryJob(job), run, instance)


def _origin(project: Project, job: str) -> RemoteJobOrigin:
    """Return where the UI finds the job. It looks for the names only."""
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name=DEFINITIONS), location_name=_location_name(project)
    )
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)


def _location_name(project: Project) -> str:
    """Return the name under which a workspace serves this package: that of the project, or one like it."""
    with contextlib.suppress(OSError, ValueError, StopIteration, KeyError, TypeError, yaml.YAMLError):
        workspace = load_bounded((project.root / "workspace.yaml").read_text(encoding="utf-8"))
        modules = [entry["python_module"] for entry in workspace["load_from"]]
        return next(module["location_name"] for module in modules if module["module_name"] == DEFINITIONS)
    return CODE_LOCATION
