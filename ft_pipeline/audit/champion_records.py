"""Compare records with each other and with their copies: champion records in `champion` artifacts, erasures."""

import json
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex
from ft_pipeline.audit.findings import Finding
from ft_pipeline.release import champion
from ft_pipeline.store import artifact_redaction
from ft_pipeline.store.ledger import Ledger


def check_records(index: ArtifactIndex) -> tuple[int, list[Finding]]:
    """(records read, findings) for the champion: what the ledger finds, and records that differ from their artifact."""
    records = champion.ledger(index.root)
    held = _held_records(index)
    findings = _findings(records, last=max(held, default=0))
    for path in records.paths():
        findings += _check(index, int(path.stem), path.read_bytes(), held)
    return len(records.paths()), findings


def _findings(records: Ledger, last: int) -> list[Finding]:
    return [
        Finding(fault.kind, f"{records.folder.name}/{records.path(fault.number).name}", fault.message)
        for fault in records.faults(last)
    ]


def _check(index: ArtifactIndex, number: int, content: bytes, held: dict[int, dict[str, Any]]) -> list[Finding]:
    where = f"champion/{number:06d}.json"
    try:
        record = json.loads(content)
        parts = dict(record["fingerprints"])
    except (ValueError, KeyError, TypeError):
        return []  # the ledger reports it
    findings = []
    copy = held.get(number)
    if copy is not None and copy != record:
        differing = sorted(key for key in {**copy, **record} if copy.get(key) != record.get(key))
        message = f"differs from its champion artifact in {', '.join(differing)}"
        findings.append(Finding("edited_record", where, message))
    for kind in ("base_model", "adapter", "merged_model"):
        if kind in parts and index.find(kind, parts[kind]).path is None:
            node = index.find(kind, parts[kind])
            findings.append(Finding("missing_artifact", node.label, f"is not in the store, but {where} released it"))
    return findings


def _held_records(index: ArtifactIndex) -> dict[int, dict[str, Any]]:
    """Number → the copy of the record in the first champion artifact that has one."""
    held: dict[int, dict[str, Any]] = {}
    for node in index.all("champion"):
        record = node.summary.get("champion")
        if isinstance(record, dict) and isinstance(record.get("sequence"), int):
            held.setdefault(record["sequence"], record)
    return held


def check_redactions(index: ArtifactIndex) -> tuple[int, list[Finding]]:
    """(records read, findings) for the records of `ft erase`."""
    records = artifact_redaction.redaction_ledger(index.root)
    return len(records.paths()), _findings(records, last=max(_numbers_in_manifests(index), default=0))


def _numbers_in_manifests(index: ArtifactIndex) -> set[int]:
    return {entry["number"] for node in index.all() for entry in node.manifest.get("redactions", ())}
