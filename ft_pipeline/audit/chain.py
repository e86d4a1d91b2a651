"""Walk from a subject over the inputs that each manifest names to the raw files."""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactIndex, ArtifactNode
from ft_pipeline.audit.findings import Finding
from ft_pipeline.audit.subject import EVIDENCE, AuditSubject
from ft_pipeline.store.blobs import BlobStore


@dataclass(frozen=True)
class RawFile:
    """One raw file as a snapshot recorded it."""

    snapshot: str
    """Kind of the snapshot, such as `raw_alpaca`."""
    name: str
    sha256: str | None
    bytes: int
    kept: str
    """`copy`, `reference` (too large to copy), `redacted`, `gone`, or `refused` (the snapshot could not take it)."""
    sidecar: str | None = None
    """SHA-256 of its sidecar (the column mapping)."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Chain:
    """A subject and every artifact that it was made from. The subject comes first."""

    index: ArtifactIndex
    subject: AuditSubject
    nodes: tuple[ArtifactNode, ...]
    links: tuple[Finding, ...]
    """Findings on artifacts whose manifest is not the one that a later artifact recorded."""
    raw_files: tuple[RawFile, ...]

    @property
    def problems(self) -> list[Finding]:
        """Problems that the manifests alone show."""
        return [*(finding for node in self.nodes for finding in node.problems), *self.links]

    def roots(self) -> list[tuple[str, ArtifactNode]]:
        """(role, node) of the subject's own artifacts."""
        return [
            (root.role, self.index.find(root.kind, root.fingerprint, root.manifest_sha256))
            for root in self.subject.roots
        ]

    def inputs_of(self, node: ArtifactNode) -> list[tuple[str, ArtifactNode]]:
        return inputs_of(self.index, node)

    def of_kind(self, *kinds: str) -> list[ArtifactNode]:
        """The readable nodes of these kinds."""
        return [node for node in self.nodes if node.kind in kinds and node.manifest]


def walk(index: ArtifactIndex, subject: AuditSubject) -> Chain:
    """Return the subject's chain, each artifact once. A manifest hash that differs from its record is a problem."""
    nodes: dict[Any, ArtifactNode] = {}
    links: dict[Finding, None] = {}
    by = "its pointer or record"
    queue = deque((root.kind, root.fingerprint, root.manifest_sha256, by) for root in subject.roots)
    while queue:
        kind, fingerprint, expected, by = queue.popleft()
        node = index.find(kind, fingerprint, expected)
        if expected and node.manifest_sha256 and not node.is_recorded_as(expected):
            links[broken_link(node, expected, by)] = None
        if node.path not in nodes or node.path is None:
            nodes[node.path or (kind, fingerprint)] = node
            recorded = node.manifest.get("input_manifests") or {}
            queue.extend((*reference, recorded.get(name), node.label) for name, reference in node.inputs.items())
    raw = [file for node in nodes.values() if node.kind.startswith("raw_") for file in raw_files(index, node)]
    return Chain(index, subject, tuple(nodes.values()), tuple(links), tuple(raw))


def made_from(chain: Chain) -> Chain:
    """Return the part of a champion's chain that the champion itself was made from.

    The evidence of the decision also leads to other models, such as the previous champion, and to rows that only they
    used. A prompt was made from a base model alone, and its examples come from the evidence. Therefore its chain is
    returned whole, as is the chain of any subject that is not a champion.
    """
    record = chain.subject.record
    if record is None or record.kind == "prompt":
        return chain
    own = tuple(root for root in chain.subject.roots if root.role != EVIDENCE)
    return walk(chain.index, replace(chain.subject, roots=own))


def inputs_of(index: ArtifactIndex, node: ArtifactNode) -> list[tuple[str, ArtifactNode]]:
    """(name, node) of each input of an artifact, found by the manifest hashes that the artifact recorded."""
    recorded = node.manifest.get("input_manifests") or {}
    return [(name, index.find(*reference, recorded.get(name))) for name, reference in node.inputs.items()]


def raw_files(index: ArtifactIndex, node: ArtifactNode) -> list[RawFile]:
    """The files of a snapshot. The listing is in the snapshot's spec."""
    blobs = BlobStore(index.root)
    files = []
    for entry in node.config.get("files", []):
        sha256 = entry.get("sha256")
        kept = "refused" if sha256 is None else _kept(blobs, sha256)
        files.append(RawFile(node.kind, entry["name"], sha256, entry.get("bytes", 0), kept, entry.get("sidecar")))
    return files


def _kept(blobs: BlobStore, sha256: str) -> str:
    if blobs.is_redacted(sha256):
        return "redacted"
    if blobs.path(sha256).is_file():
        return "copy"
    return "reference" if blobs.reference_path(sha256).is_file() else "gone"


def broken_link(node: ArtifactNode, expected: str | None, by: str) -> Finding:
    """The finding that the manifest of `node` is not the one that `by` recorded."""
    recorded = str(expected)[:SHOWN]
    message = f"its manifest differs from the one recorded by {by} (SHA-256 {recorded}): it was edited or replaced"
    return Finding("broken_link", node.label, message)
