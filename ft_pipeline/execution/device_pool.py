"""The pool `gpu`: Dagster's daemon keeps runs in its queue while as many runs as there are devices are under way.

The pool decides nothing else. The device lease excludes (workers/device_leases.py), for runs of `ft run`, too. A run
that the daemon holds back has no process. Therefore it costs nothing, and a kill cannot leave a slot behind.

Dagster's own waiting for the slot of a step does both: its executors poll in a loop that uses a whole core, and a run
that is killed in that loop is given the next free slot, forever.
"""

import os
from pathlib import Path

import dagster as dg
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import dagster_settings
from ft_pipeline.execution.workers.device_leases import device_slots
from ft_pipeline.project import Project
from ft_pipeline.settings.bounded_yaml import load_bounded

EXECUTOR = "FT_EXECUTOR"
"""Environment variable of the deployment: `in_process` (the default), or `k8s` (extra `k8s`)."""
PODS = "k8s"
"""The executor that runs each step in a pod of Kubernetes."""
DEFAULT_LIMIT = "ft_pipeline/pool_limit"
"""Key in Dagster's database: the limit that was set by default. A different one was set by a user."""


def pool_of_devices() -> str | None:
    """Return the pool of assets that need a device. None if Dagster would let each step wait for a slot.

    It does with `granularity: op`, which projects of older versions have. In pods of Kubernetes the executor sleeps
    while it waits, and Dagster watches the processes.
    """
    if os.environ.get(EXECUTOR) == PODS:
        return dagster_settings().pool
    return dagster_settings().pool if _granularity() == "run" else None


def _granularity() -> str | None:
    """The granularity of pools in dagster.yaml. None if it is not set; Dagster reports a file that is invalid."""
    home = os.environ.get("DAGSTER_HOME")
    try:
        folder = Path(home) if home else Project.find().dagster_home
        settings = load_bounded((folder / "dagster.yaml").read_text(encoding="utf-8"))
        return settings["concurrency"]["pools"]["granularity"]
    except (UserError, OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None


def set_default_limit(instance: dg.DagsterInstance) -> None:
    """Set the limit of the pool to the number of GPUs, or to 1 without one.

    A limit that a user set in the UI, with `dagster instance concurrency set gpu N` or in dagster.yaml stays.
    """
    has_default = instance.get_concurrency_config().pool_config.default_pool_limit is not None
    if has_default or os.environ.get(EXECUTOR) == "k8s":  # a pod does not see the GPUs of the cluster
        return
    name = dagster_settings().pool
    storage, cursors = instance.event_log_storage, instance.daemon_cursor_storage
    present = next((pool.limit for pool in storage.get_pool_limits() if pool.name == name), None)
    ours = cursors.get_cursor_values({DEFAULT_LIMIT}).get(DEFAULT_LIMIT)
    if present is not None and str(present) != ours:
        return
    slots = device_slots()
    if present != slots:
        storage.set_concurrency_slots(name, slots)
        cursors.set_cursor_values({DEFAULT_LIMIT: str(slots)})
