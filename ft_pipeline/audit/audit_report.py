"""The document of `ft audit --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.chain import Chain, raw_files
from ft_pipeline.audit.findings import Finding
from ft_pipeline.store.redaction import redactions


@dataclass(frozen=True)
class VerificationResult:
    """What a thorough check found; `checked` False is an audit without it."""

    checked: bool = False
    problems: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    """What could not be held against another record (Dagster's database is gone)."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """How much was read: artifacts, files, bytes, raw files, records, events."""


def audit_document(chain: Chain, verdict: VerificationResult | None = None) -> dict[str, Any]:
    """`verified` is null where nothing was re-hashed; what the manifests alone show is among `problems` even then."""
    verdict = verdict or VerificationResult()
    findings = list(dict.fromkeys([*chain.problems, *verdict.problems]))
    marks = marks_of(chain.library)
    redacted = [node.label for node in chain.nodes if status(chain, node, marks) == "redacted"]
    record = chain.subject.record
    return {
        "subject": chain.subject.name,
        "roots": [
            {"role": root.role, "kind": root.kind, "fingerprint": root.fingerprint} for root in chain.subject.roots
        ],
        "record": record.to_json() if record else None,
        "nodes": [_node(chain, node, marks, verdict) for node in chain.nodes],
        "verified": not (findings or redacted) if verdict.checked else None,
        "redacted": redacted,
        "problems": [str(finding) for finding in findings],
        "findings": [finding.to_json() for finding in findings],
        "notes": list(verdict.notes),
        "counted": dict(verdict.counted),
    }


def marks_of(library: ArtifactIndex) -> dict[str, list[str]]:
    """Fingerprint → what was forgotten that the artifact had learned from, chose by or was scored on."""
    found: dict[str, list[str]] = {}
    for redaction in redactions(library.root):
        for model in redaction.models:
            told = f"{model['how']}: a row that was forgotten on {redaction.when[:10]} (record {redaction.number})"
            found.setdefault(model["fingerprint"], []).append(told)
    return found


def status(
    chain: Chain, node: ArtifactNode, marks: Mapping[str, list[str]], checked: bool = False, damaged: bool = False
) -> str:
    """`redacted` (rows were taken out of it, or it saw one that is gone), `damaged`, `missing`, `verified`, or
    `unchecked`."""
    if node.path is None:
        return "missing"
    if damaged or node.problems:
        return "damaged"
    raw = raw_files(chain.library, node) if node.kind.startswith("raw_") else []
    if node.redacted or node.fingerprint in marks or any(file.kept == "redacted" for file in raw):
        return "redacted"
    return "verified" if checked else "unchecked"


def _node(
    chain: Chain, node: ArtifactNode, marks: Mapping[str, list[str]], verdict: VerificationResult
) -> dict[str, Any]:
    manifest, run = node.manifest, node.run
    damaged = node.label in {each.where for each in verdict.problems}
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
        "inputs": [each.fingerprint for _, each in chain.inputs_of(node)],
        "inputs_by_name": {name: each.fingerprint for name, each in chain.inputs_of(node)},
        "path": str(node.path.relative_to(chain.library.root)) if node.path else None,
        "manifest_sha256": node.manifest_sha256,
        "status": status(chain, node, marks, verdict.checked, damaged),
        "redactions": [{key: each.get(key) for key in ("number", "when", "by")} for each in _redactions_of(node)],
        "marks": marks.get(node.fingerprint, []),
        "problems": [str(finding) for finding in node.problems],
    }
    if node.kind.startswith("raw_"):
        document["raw_files"] = [each.to_json() for each in raw_files(chain.library, node)]
    return document


def _redactions_of(node: ArtifactNode) -> list[dict[str, Any]]:
    return node.manifest.get("redactions") or []
