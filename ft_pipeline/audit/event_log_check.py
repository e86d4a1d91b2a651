"""Compares the store with Dagster's own record of what was materialized."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import dagster as dg

from ft_pipeline import features
from ft_pipeline.execution.dagster_names import asset_name, is_ours
from ft_pipeline.execution.instance import connect_instance
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.lineage.findings import Finding
from ft_pipeline.project import Project, has_separate_database
from ft_pipeline.store.removals import logged_removals
from ft_pipeline.store.spec import ArtifactReference

PAGE_SIZE = 500
"""Number of events that one query of the event log returns."""


@dataclass(frozen=True)
class RecordedMaterialization:
    """One materialization in Dagster's event log."""

    asset: str
    experiment: str | None
    fingerprint: str
    """The data version."""
    manifest_sha256: str | None
    run_id: str

    @property
    def label(self) -> str:
        key = f"{self.asset}[{self.experiment}]" if self.experiment else self.asset
        return f"{key} {self.fingerprint[:SHOWN_DIGITS]}"


def compare_with_event_log(
    project: Project, index: ArtifactIndex, signed_removals: Set[ArtifactReference] | None = None
) -> tuple[int, list[Finding], list[str]]:
    """Return (number of events read, findings, notes).

    signed_removals: artifacts whose removal is signed. None: the store is not signed, and the list of `ft gc` counts.
    If the event log is missing, empty or unreadable, the result is only a note.
    """
    try:
        recorded = _all_materializations(project)
    except Exception as error:  # any database error: the store's own chain is complete without it
        return 0, [], [f"Dagster's event log could not be read ({type(error).__name__}); only the store was checked"]
    if recorded is None or (not recorded and index.pointers):
        return 0, [], ["Dagster's event log is missing or empty; only the store was checked"]
    garbage_collected = logged_removals(index.root) if signed_removals is None else signed_removals
    expected = [event for event in recorded if (event.asset, event.fingerprint) not in garbage_collected]
    findings = [finding for event in expected for finding in _check(index, event)]
    removed_count = len(recorded) - len(expected)
    note = f"{removed_count} of Dagster's events are for artifacts that ft gc has removed (removed.jsonl)"
    return len(recorded), list(dict.fromkeys(findings)), [note] if removed_count else []


def _check(index: ArtifactIndex, event: RecordedMaterialization) -> list[Finding]:
    node = index.find(event.asset, event.fingerprint, event.manifest_sha256)
    materialized = f"run {event.run_id[:8]} materialized it"
    if node.path is None:
        return [Finding("event_without_artifact", event.label, f"{materialized}, but it is not in the store")]
    if event.manifest_sha256 and not node.is_recorded_as(event.manifest_sha256):
        digest = event.manifest_sha256[:SHOWN_DIGITS]
        message = f"{materialized} with another manifest (SHA-256 {digest}): the manifest was edited"
        return [Finding("event_disagrees", event.label, message)]
    return []


def _all_materializations(project: Project) -> list[RecordedMaterialization] | None:
    """Return every materialization in Dagster's log. None without a database: a query would create one."""
    if not has_separate_database(project.dagster_home) and not (project.dagster_home / "history").is_dir():
        return None
    with connect_instance() as instance:
        keys = sorted(
            key for key in instance.all_asset_keys() if is_ours(key) and asset_name(key) not in features.assets()
        )
        return [event for key in keys for event in _materializations_of(instance, key)]


def _materializations_of(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[RecordedMaterialization]:
    cursor = None
    while True:
        page = instance.fetch_materializations(key, limit=PAGE_SIZE, cursor=cursor)
        yield from _parse(page.records)
        if not page.has_more:
            return
        cursor = page.cursor


def _parse(records: Sequence[dg.EventLogRecord]) -> Iterator[RecordedMaterialization]:
    for record in records:
        materialization = record.asset_materialization
        data_version = (materialization.tags or {}).get("dagster/data_version") if materialization else None
        if materialization is None or data_version is None:
            continue
        manifest_sha256 = materialization.metadata.get("manifest_sha256")
        yield RecordedMaterialization(
            asset_name(materialization.asset_key),
            materialization.partition,
            data_version,
            str(manifest_sha256.value).strip() if manifest_sha256 else None,
            record.run_id,
        )
