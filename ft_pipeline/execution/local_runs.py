"""Dagster runs that this process executes itself, without a code server: those of `ft run`.

They belong to the job `everything` of the code location, so that the UI lists them on its first page and can execute
them again.
"""

import uuid
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import dagster as dg
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
from ft_pipeline.store.provenance import user_name

DEFINITIONS = "ft_pipeline.definitions"
CODE_LOCATION = "ft_pipeline"
"""The name of the code location in workspace.yaml and dg.toml."""
EVERYTHING = "everything"
"""The name of the job with all assets but the inbox, without the project's prefix."""
NO_CONSOLE_LOG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@cache
def definitions() -> dg.Definitions:
    """Load the definitions, which fill STEPS. They can be imported only after the project folder is known."""
    return import_module(DEFINITIONS).defs()


def execute_everything(
    instance: dg.DagsterInstance, store: Path, assets: Collection[str], experiment: str | None, tags: Mapping[str, str]
) -> dg.JobExecutionResult:
    """Execute a run of the job `everything` for some of its assets, in this process.

    The run is locked before it exists, so that at no moment it is under way without a lock (orphaned_runs.py).
    """
    keys = frozenset(asset_keys(assets))
    job = definitions().resolve_job_def(prefixed(EVERYTHING)).with_executor_def(dg.in_process_executor)
    run_id = str(uuid.uuid4())
    lock_new_run(store, run_id)
    partition = {PARTITION: experiment} if experiment is not None else {}
    run = instance.create_run_for_job(
        job.get_subset(asset_selection=keys),
        run_id=run_id,
        run_config=NO_CONSOLE_LOG,
        tags={**job.run_tags, STARTED_BY: f"cli {user_name()}", **partition, **tags},
        asset_selection=keys,
        remote_job_origin=_origin(job.name),
    )
    return execute_run(InMemoryJob(job), run, instance)


def _origin(job: str) -> RemoteJobOrigin:
    """Return where the UI finds the job. It looks for the names only."""
    target = LoadableTargetOrigin(module_name=DEFINITIONS)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=CODE_LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)
