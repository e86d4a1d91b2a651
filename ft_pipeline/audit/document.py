"""The document of `ft audit --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.audit.chain import Chain, raw_files
from ft_pipeline.audit.findings import Finding
from ft_pipeline.audit.library import Node


@dataclass(frozen=True)
class Verdict:
    """What a thorough check found; `checked` False is an audit without it."""

    checked: bool = False
    problems: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    """What could not be held against another record (Dagster's database is gone)."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """How much was read: artifacts, files, bytes, raw files, records, events."""


def audit_document(chain: Chain, verdict: Verdict | None = None) -> dict[str, Any]:
    """`verified` is null where nothing was re-hashed; what the manifests alone show is among `problems` even then."""
    verdict = verdict or Verdict()
    findings = list(dict.fromkeys([*chain.problems, *verdict.problems]))
    record = chain.subject.record
    return {
        "subject": chain.subject.name,
        "roots": [
            {"role": root.role, "kind": root.kind, "fingerprint": root.fingerprint} for root in chain.subject.roots
        ],
        "record": record.to_json() if record else None,
        "nodes": [_node(chain, node) for node in chain.nodes],
        "verified": not findings if verdict.checked else None,
        "problems": [str(finding) for finding in findings],
        "findings": [finding.to_json() for finding in findings],
        "notes": list(verdict.notes),
        "counted": dict(verdict.counted),
    }


def _node(chain: Chain, node: Node) -> dict[str, Any]:
    manifest, run = node.manifest, node.run
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
        "problems": [str(finding) for finding in node.problems],
    }
    if node.kind.startswith("raw_"):
        document["raw_files"] = [each.to_json() for each in raw_files(chain.library, node)]
    return document
