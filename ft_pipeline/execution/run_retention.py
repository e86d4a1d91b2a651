"""Removes old runs from Dagster's history, and keeps those that the UI needs for what is current.

Deleting a run deletes its events, also the materializations. A run that made the latest materialization of an asset, of
any of its partitions, is therefore never removed: without it, the UI would show the asset as never materialized.
"""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg

from ft_pipeline.execution.dagster_names import STARTED_BY, asset_name, is_ours, is_own_run

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
PAGE_SIZE = 1000
"""Number of materializations that one query returns."""


@dataclass(frozen=True)
class PurgeResult:
    """The result of looking at one page of old runs."""

    removed: list[str]
    """Ids of runs."""
    cursor: str
    """Where the next look begins; empty: at the oldest run."""


def purge_runs(
    instance: dg.DagsterInstance,
    before: datetime,
    assets: Collection[str],
    jobs: Collection[str],
    *,
    cursor: str = "",
    limit: int = 50,
) -> PurgeResult:
    """Look at the next `limit` finished runs that were created before a time, and remove those that are not needed.

    assets, jobs: names of the project. Runs of others in the same instance are not touched.
    """
    filters = dg.RunsFilter(
        statuses=FINISHED,
        created_before=before,
        created_after=datetime.fromisoformat(cursor) if cursor else None,
    )
    records = instance.get_run_records(filters, limit=limit, ascending=True)
    own = [record.dagster_run for record in records if _is_own(record.dagster_run, assets, jobs)]
    needed = _runs_of_latest_materializations(instance) if own else set()
    removed = [run.run_id for run in own if run.run_id not in needed]
    for run_id in removed:
        _remove(instance, run_id)
    is_last_page = len(records) < limit
    return PurgeResult(removed, "" if is_last_page else records[-1].create_timestamp.isoformat())


def _is_own(run: dg.DagsterRun, assets: Collection[str], jobs: Collection[str]) -> bool:
    if not is_own_run(run):
        return False
    if run.asset_selection:
        return all(asset_name(key) in assets for key in run.asset_selection)
    return run.job_name in jobs or STARTED_BY in run.tags


def _runs_of_latest_materializations(instance: dg.DagsterInstance) -> set[str]:
    """The runs that made the latest materialization of each asset and of each of its partitions."""
    runs = set()
    for key in filter(is_ours, instance.all_asset_keys()):
        latest = instance.get_latest_materialization_event(key)
        if latest is not None:
            runs.add(latest.run_id)
        ids = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        storage_ids = list(ids.values())
        for start in range(0, len(storage_ids), PAGE_SIZE):
            page = storage_ids[start : start + PAGE_SIZE]
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, storage_ids=page), limit=PAGE_SIZE
            ).records
            runs |= {record.run_id for record in records}
    return runs


def _remove(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove a run, its events, its logs, and the file that SQLite keeps for it."""
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    shard = getattr(instance.event_log_storage, "path_for_shard", None)
    if shard is not None:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{shard(run_id)}{suffix}").unlink(missing_ok=True)
