"""Check the records of champions, tests, searches and erasures: by each other and the artifacts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search import looks as validation_looks
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.lineage.findings import CheckedRecords, Finding, check_ledger
from ft_pipeline.release import champion, requests
from ft_pipeline.store.artifact_redaction import Redaction, read_redactions, redaction_ledger
from ft_pipeline.store.checked_json import read_checked
from ft_pipeline.store.text_redaction import PLACEHOLDER


def check_champion_records(index: ArtifactIndex) -> CheckedRecords:
    """Check the records of champions."""
    ledger = champion.ledger(index.root)
    copies = _copies_in_artifacts(index)
    checked = check_ledger("champion_records", ledger, ledger.faults(max(copies, default=0)))
    for path in ledger.paths():
        checked.findings.extend(_check_champion_record(index, path, copies))
    return checked


def _check_champion_record(index: ArtifactIndex, path: Path, copies: dict[int, dict[str, Any]]) -> list[Finding]:
    """Compare a record with its copy, and check that the model that it released is in the store."""
    where = f"{path.parent.name}/{path.name}"
    try:
        record = read_checked(path, champion.ledger(index.root).shape)
    except (OSError, ValueError):
        return []  # found in the ledger
    fingerprints = record["fingerprints"]
    findings = list(_check_request(index, where, record))
    copy = copies.get(int(path.stem), record)
    # `ft erase` removes a text from the copy; the record keeps it.
    kept = [key for key in {**copy, **record} if PLACEHOLDER not in str(copy.get(key))]
    if differing := sorted(key for key in kept if copy.get(key) != record.get(key)):
        message = f"differs from its champion artifact in {', '.join(differing)}"
        findings.append(Finding("edited_record", where, message))
    for kind in champion.RELEASED_ARTIFACTS:
        node = index.find(kind, fingerprints[kind]) if kind in fingerprints else None
        if node is not None and node.path is None:
            findings.append(Finding("missing_artifact", node.label, f"is not in the store, but {where} released it"))
    return findings


def _check_request(index: ArtifactIndex, where: str, record: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding if a record carries out a request that is missing, is another one, or is by the same person."""
    if record.get("request") is None:
        return
    path = requests.ledger(index.root).path(int(record["request"]))
    try:
        request = read_checked(path, requests.ledger(index.root).shape)
    except (OSError, ValueError):
        yield Finding("edited_record", where, f"carries out requests/{path.name}, which is missing or unreadable")
        return
    asked = (request["by"], request["promotion"]["candidate"]["fingerprint"])
    if asked != (record.get("requested_by"), record.get("fingerprint")):
        yield Finding("edited_record", where, f"does not carry out requests/{path.name}, although it says so")
    elif record.get("by") == record.get("requested_by"):
        yield Finding("edited_record", where, f"was approved by {record.get('by')}, who asked for it")


def _copies_in_artifacts(index: ArtifactIndex) -> dict[int, dict[str, Any]]:
    """Return number → the copy of the record in the first champion artifact that has one."""
    copies: dict[int, dict[str, Any]] = {}
    for node in index.all("champion"):
        record = node.summary.get("champion")
        if isinstance(record, dict) and isinstance(record.get("sequence"), int):
            copies.setdefault(record["sequence"], record)
    return copies


def check_requests(index: ArtifactIndex) -> CheckedRecords:
    """Check the requests to move the champion."""
    ledger = requests.ledger(index.root)
    return check_ledger("requests", ledger, ledger.faults())


def check_exposures(index: ArtifactIndex) -> CheckedRecords:
    """Check the ledger of tests. Decisions say which entries there must be."""
    decided = [node.summary.get("exposure", {}).get("entry", 0) for node in index.all("decision")]
    faults = exposure_ledger.find_faults(index.root, max(decided, default=0))
    checked = check_ledger("records_of_tests", exposure_ledger.ledger(index.root), faults)
    if not checked.findings:
        checked.findings.extend(
            Finding("edited_record", name, "is missing or was edited: its ids do not match its name")
            for name in exposure_ledger.damaged_rows(index.root)
        )
    return checked


def check_validation_looks(index: ArtifactIndex) -> CheckedRecords:
    """Check the records of the searches of prompts."""
    book = validation_looks.ledger(index.root)
    return check_ledger("searches_of_prompts", book, book.faults())


def check_redaction_records(index: ArtifactIndex) -> CheckedRecords:
    """Check the records of `ft erase`."""
    ledger = redaction_ledger(index.root)
    return check_ledger("redactions", ledger, ledger.faults(max(_numbers_in_manifests(index), default=0)))


LEDGERS = (check_champion_records, check_requests, check_exposures, check_validation_looks, check_redaction_records)
"""The ledgers of the core. Features add theirs at the event `verified`."""


def check_redactions(index: ArtifactIndex, nodes: Iterable[ArtifactNode]) -> list[Finding]:
    """Return findings on redactions that a manifest declares, but no record of `ft erase` has."""
    try:
        records = {record.number: record for record in read_redactions(index.root)}
    except UserError:
        return []  # found by check_redaction_records
    findings = []
    for node in nodes:
        for entry in node.manifest.get("redactions") or ():
            if message := _not_recorded(node, entry, records.get(entry.get("number"))):
                findings.append(Finding("unrecorded_redaction", node.label, message))
    return findings


def _not_recorded(node: ArtifactNode, entry: dict[str, Any], record: Redaction | None) -> str | None:
    """Return how a redaction in a manifest differs from the record of it; None if it does not."""
    declared = f"its manifest declares redaction {entry.get('number')}"
    if record is None:
        return f"{declared}, of which there is no record (an interrupted `ft erase`: run it again)"
    of_node = [one for one in record.artifacts if (one["kind"], one["fingerprint"]) == (node.kind, node.fingerprint)]
    if not of_node:
        return f"{declared}, but redactions/{record.number:06d}.json does not name this artifact"
    allowed = {name: pair[1] for one in of_node for name, pair in one.get("hashes", {}).items()}
    for name, change in entry["files"].items():
        if allowed and allowed.get(name) != change["sha256"]:
            return f"{declared}, but the record has another hash of {name}"
    return None


def _numbers_in_manifests(index: ArtifactIndex) -> set[int]:
    """Return the numbers of the erasure records to which manifests refer."""
    return {entry["number"] for node in index.all() for entry in node.manifest.get("redactions", ())}
