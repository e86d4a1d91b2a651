"""Compares the store with Dagster's own record of what was materialized."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from ft_pipeline.audit.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.audit.findings import Finding
from ft_pipeline.execution.instance import connect_instance
from ft_pipeline.project import Project, has_separate_database
from ft_pipeline.store.garbage import logged_removals

PAGE = 500


@dataclass(frozen=True)
class Event:
    """One materialization in Dagster's event log."""

    asset: str
    experiment: str | None
    fingerprint: str
    """The data version."""
    manifest_sha256: str | None
    run_id: str
    when: str

    @property
    def label(self) -> str:
        key = f"{self.asset}[{self.experiment}]" if self.experiment else self.asset
        return f"{key} {self.fingerprint[:SHOWN_DIGITS]}"


def cross_check(project: Project, index: ArtifactIndex) -> tuple[int, list[Finding], list[str]]:
    """Return (number of events read, findings, notes). Without a record of Dagster, only a note says so."""
    try:
        events = _all_events(project)
    except Exception as error:  # any database error: the store's own chain is complete without it
        return 0, [], [f"Dagster's event log could not be read ({type(error).__name__}); only the store was checked"]
    if events is None or (not events and index.pointers):
        return 0, [], ["Dagster's event log is missing or empty; only the store was checked"]
    collected = logged_removals(index.root)
    kept = [event for event in events if (event.asset, event.fingerprint) not in collected]
    findings = [finding for event in kept for finding in _check(index, event)]
    note = f"{len(events) - len(kept)} of Dagster's events are for artifacts that ft gc has removed (removed.jsonl)"
    return len(events), list(dict.fromkeys(findings)), [note] if len(kept) < len(events) else []


def _check(index: ArtifactIndex, event: Event) -> list[Finding]:
    node = index.find(event.asset, event.fingerprint, event.manifest_sha256)
    materialized = f"run {event.run_id[:8]} materialized it"
    if node.path is None:
        return [Finding("event_without_artifact", event.label, f"{materialized}, but it is not in the store")]
    if event.manifest_sha256 and not node.is_recorded_as(event.manifest_sha256):
        digest = event.manifest_sha256[:SHOWN_DIGITS]
        message = f"{materialized} with another manifest (SHA-256 {digest}): the manifest was edited"
        return [Finding("event_disagrees", event.label, message)]
    return []


def _all_events(project: Project) -> list[Event] | None:
    """Return every materialization in Dagster's log. None without a database: a query would create one."""
    if not has_separate_database(project.dagster_home) and not (project.dagster_home / "history").is_dir():
        return None
    with connect_instance() as instance:
        return [event for key in sorted(instance.all_asset_keys()) for event in _events_of(instance, key)]


def _events_of(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[Event]:
    cursor = None
    while True:
        page = instance.fetch_materializations(key, limit=PAGE, cursor=cursor)
        yield from _read(page.records)
        if not page.has_more:
            return
        cursor = page.cursor


def _read(records: Sequence[dg.EventLogRecord]) -> Iterator[Event]:
    for record in records:
        event = record.asset_materialization
        version = (event.tags or {}).get("dagster/data_version") if event else None
        if event is None or version is None:
            continue
        manifest = event.metadata.get("manifest_sha256")
        yield Event(
            event.asset_key.to_user_string(),
            event.partition,
            version,
            str(manifest.value) if manifest else None,
            record.run_id,
            str(record.timestamp),
        )
