"""Compare records with each other and with their copies: champion records in `champion` artifacts, erasures."""

import json
from hashlib import sha256
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex
from ft_pipeline.audit.findings import Finding
from ft_pipeline.release.champion import RECORD_NAME


def check_records(index: ArtifactIndex) -> tuple[int, list[Finding]]:
    """(records read, findings): gaps, records that cannot be read, and records that differ from their artifact."""
    folder = index.root / "champion"
    paths = sorted(path for path in folder.glob("*.json") if RECORD_NAME.match(path.name))
    held = _held_records(index)
    findings: list[Finding] = []
    last = max([*held, *(int(path.stem) for path in paths)], default=0)
    present = {int(path.stem) for path in paths}
    for number in range(1, last + 1):
        if number not in present:
            findings.append(Finding("missing_record", _place(number), "is missing, although records are never removed"))
    previous: bytes | None = None
    for path in paths:
        content = path.read_bytes()
        findings += _check(index, int(path.stem), content, held, previous)
        previous = content
    return len(paths), findings


def _check(
    index: ArtifactIndex, number: int, content: bytes, held: dict[int, dict[str, Any]], previous: bytes | None
) -> list[Finding]:
    where = _place(number)
    try:
        record = json.loads(content)
        parts, sequence = dict(record["fingerprints"]), record["sequence"]
    except (ValueError, KeyError, TypeError):
        return [Finding("edited_record", where, "cannot be read as a record")]
    findings = []
    if sequence != number:
        findings.append(Finding("edited_record", where, f"contains the record number {sequence}"))
    chained = record.get("previous_sha256")
    if chained and previous is not None and chained != sha256(previous).hexdigest():
        message = f"does not match its hash in {where}: it was edited"
        findings.append(Finding("edited_record", _place(number - 1), message))
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


def _place(number: int) -> str:
    return f"champion/{number:06d}.json"


def check_redactions(index: ArtifactIndex) -> tuple[int, list[Finding]]:
    """(records read, findings) for the records of `ft erase`: gaps, and records whose hash differs from the next one's.

    Each record contains the SHA-256 of the previous record.
    """
    folder = index.root / "redactions"
    paths = sorted(folder.glob("*.json"))
    last = max([0, *(int(path.stem) for path in paths), *_numbers_in_manifests(index)])
    findings: list[Finding] = []
    for number in range(1, last + 1):
        where, path = f"redactions/{number:06d}.json", folder / f"{number:06d}.json"
        if not path.is_file():
            findings.append(Finding("missing_record", where, "is missing, although records are never removed"))
            continue
        try:
            document = json.loads(path.read_bytes())
            chained, own = document["previous_sha256"], document["number"]
        except (ValueError, KeyError, TypeError):
            findings.append(Finding("edited_record", where, "cannot be read as a record"))
            continue
        before = folder / f"{number - 1:06d}.json"
        if own != number:
            findings.append(Finding("edited_record", where, f"contains the record number {own}"))
        if chained and before.is_file() and chained != sha256(before.read_bytes()).hexdigest():
            message = f"does not match its hash in {where}: it was edited"
            findings.append(Finding("edited_record", f"redactions/{before.name}", message))
    return len(paths), findings


def _numbers_in_manifests(index: ArtifactIndex) -> set[int]:
    return {entry["number"] for node in index.all() for entry in node.manifest.get("redactions", ())}
