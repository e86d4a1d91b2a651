"""The document of `ft audit --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.audit.chain import Chain, raw_files
from ft_pipeline.errors import UserError
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.lineage.findings import Finding
from ft_pipeline.store.artifact_redaction import read_redactions
from ft_pipeline.store.spec import ArtifactReference


@dataclass(frozen=True)
class VerificationResult:
    """Result of `ft audit --verify`."""

    checked: bool = False
    """False if nothing was hashed again."""
    problems: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    """What could not be compared with another record, for example because Dagster's database is gone."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """Numbers of what was read: artifacts, files, bytes, raw files, records, events."""
    signatures: Mapping[str, Any] | None = None
    """Of a signed store: its key, the number of signed changes, the hash of the last one, and the time of the first."""
    signed_removals: frozenset[ArtifactReference] | None = None
    """Artifacts whose removal is signed; None if the store is not signed."""


def audit_document(chain: Chain, result: VerificationResult) -> dict[str, Any]:
    """Return the JSON document of an audit.

    `verified` is null if nothing was hashed again. Even then, `problems` has those that the manifests alone show.
    """
    findings = list(dict.fromkeys([*chain.problems, *result.problems]))
    notes = erasure_notes(chain.index)
    redacted = [node.label for node in chain.nodes if node_status(chain.index, node, notes) == "redacted"]
    record = chain.subject.record
    return {
        "subject": chain.subject.name,
        "roots": [
            {"role": root.role, "kind": root.kind, "fingerprint": root.fingerprint} for root in chain.subject.roots
        ],
        "record": record.model_dump() if record else None,
        "nodes": [_node_document(chain, node, notes, result) for node in chain.nodes],
        "verified": not (findings or redacted) if result.checked else None,
        "redacted": redacted,
        "problems": [str(finding) for finding in findings],
        "findings": [finding.to_json() for finding in findings],
        "notes": list(result.notes),
        "counted": dict(result.counted),
        "signatures": dict(result.signatures) if result.signatures else None,
    }


def erasure_notes(index: ArtifactIndex) -> dict[str, list[str]]:
    """Return fingerprint → notes on erased rows that trained the model, selected its checkpoint or tested it."""
    notes: dict[str, list[str]] = {}
    try:
        redactions = read_redactions(index.root)
    except UserError:
        redactions = []  # a broken record is a finding of --verify
    for redaction in redactions:
        for model in redaction.models:
            note = f"{model['how']}: a row that was erased on {redaction.when[:10]} (record {redaction.number})"
            notes.setdefault(model["fingerprint"], []).append(note)
    return notes


def node_status(
    index: ArtifactIndex,
    node: ArtifactNode,
    notes: Mapping[str, list[str]],
    checked: bool = False,
    damaged: bool = False,
) -> str:
    """Return `missing`, `damaged`, `redacted`, `verified` or `unchecked`.

    `redacted`: rows were erased from the artifact, or it used a row that was erased later.

    notes: those of `erasure_notes`. checked: whether its files were hashed again. damaged: whether that found problems.
    """
    if node.path is None:
        return "missing"
    if damaged or node.problems:
        return "damaged"
    if node.redacted or node.fingerprint in notes:
        return "redacted"
    if any(file.kept == "redacted" for file in raw_files(index, node)):
        return "redacted"
    return "verified" if checked else "unchecked"


def _node_document(
    chain: Chain, node: ArtifactNode, notes: Mapping[str, list[str]], result: VerificationResult
) -> dict[str, Any]:
    """Return the JSON of one artifact."""
    manifest, run, inputs = node.manifest, node.run, chain.inputs_of(node)
    redactions = manifest.get("redactions") or []
    damaged = node.label in {finding.where for finding in result.problems}
    document = {
        "key": node.key,
        "kind": node.kind,
        "fingerprint": node.fingerprint,
        "created": manifest.get("created"),
        "begun": manifest.get("begun"),
        "code_version": node.code_version,
        "code": manifest.get("code"),
        "run_id": run.get("run_id"),
        "started_by": run.get("started_by"),
        "user": run.get("user"),
        "config": node.config,
        "versions": node.spec.get("versions"),
        "packages": manifest.get("packages"),
        "hardware": manifest.get("hardware"),
        "device": {key: run.get(key) for key in ("device", "gpus", "seconds", "peak_rss_bytes")},
        "seeds": manifest.get("seeds"),
        "files": [{key: entry.get(key) for key in ("path", "sha256", "bytes")} for entry in node.files],
        "inputs": [input_node.fingerprint for _, input_node in inputs],
        "inputs_by_name": {name: input_node.fingerprint for name, input_node in inputs},
        "path": str(node.path.relative_to(chain.index.root)) if node.path else None,
        "manifest_sha256": node.manifest_sha256,
        "status": node_status(chain.index, node, notes, result.checked, damaged),
        "redactions": [{key: entry.get(key) for key in ("number", "when", "by")} for entry in redactions],
        "marks": notes.get(node.fingerprint, []),
        "problems": [str(finding) for finding in node.problems],
    }
    if node.kind.startswith("raw_"):
        document["raw_files"] = [file.to_json() for file in raw_files(chain.index, node)]
    return document
