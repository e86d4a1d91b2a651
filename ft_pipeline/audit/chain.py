"""Walk from a subject over the inputs that each manifest names to the raw files."""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.audit.subject import EVIDENCE, AuditSubject
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex, ArtifactNode
from ft_pipeline.lineage.findings import Finding
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
    """How its bytes are stored: `copy`, `reference` (too large to copy), `redacted`, `gone`, or `refused` (the snapshot
    could not take it)."""
    sidecar: str | None = None
    """SHA-256 of its sidecar (the column mapping)."""
    source: str | None = None
    """Where a remote file came from."""
    revision: str | None = None
    """The revision of the remote file."""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Chain:
    """A subject and every artifact that it was made from. The subject comes first."""

    index: ArtifactIndex
    subject: AuditSubject
    nodes: tuple[ArtifactNode, ...]
    broken_links: tuple[Finding, ...]
    """Findings on artifacts whose manifest is not the one that a later artifact, a pointer or a record has recorded."""
    raw_files: tuple[RawFile, ...]

    @property
    def problems(self) -> list[Finding]:
        """Problems that the manifests alone show."""
        return [*(finding for node in self.nodes for finding in node.problems), *self.broken_links]

    def root_nodes(self) -> list[tuple[str, ArtifactNode]]:
        """Return (role, node) of the artifacts where the walk starts."""
        return [
            (root.role, self.index.find(root.kind, root.fingerprint, root.manifest_sha256))
            for root in self.subject.roots
        ]

    def inputs_of(self, node: ArtifactNode) -> list[tuple[str, ArtifactNode]]:
        """Return (name, node) of each input of an artifact."""
        return inputs_of(self.index, node)

    def of_kind(self, *kinds: str) -> list[ArtifactNode]:
        """Return the nodes of these kinds whose manifests can be read."""
        return [node for node in self.nodes if node.kind in kinds and node.manifest]


@dataclass(frozen=True)
class _Reference:
    """A reference to an artifact that the walk has not visited yet."""

    kind: str
    fingerprint: str
    manifest_sha256: str | None
    """As recorded with the reference."""
    recorded_by: str


def walk(index: ArtifactIndex, subject: AuditSubject) -> Chain:
    """Return the subject's chain, each artifact once. A manifest hash that differs from its record is a problem."""
    nodes: dict[Any, ArtifactNode] = {}
    broken_links: dict[Finding, None] = {}
    queue = deque(
        _Reference(root.kind, root.fingerprint, root.manifest_sha256, "its pointer or record") for root in subject.roots
    )
    while queue:
        reference = queue.popleft()
        node = index.find(reference.kind, reference.fingerprint, reference.manifest_sha256)
        expected = reference.manifest_sha256
        if expected and node.manifest_sha256 and not node.is_recorded_as(expected):
            broken_links[broken_link(node, expected, reference.recorded_by)] = None
        if node.path not in nodes or node.path is None:
            nodes[node.path or (reference.kind, reference.fingerprint)] = node
            recorded = node.manifest.get("input_manifests") or {}
            queue.extend(
                _Reference(kind, fingerprint, recorded.get(name), node.label)
                for name, (kind, fingerprint) in node.inputs.items()
            )
    raw = [file for node in nodes.values() for file in raw_files(index, node)]
    return Chain(index, subject, tuple(nodes.values()), tuple(broken_links), tuple(raw))


def without_evidence(chain: Chain) -> Chain:
    """Return the part of a champion's chain that the champion itself was made from.

    The evidence of the decision also leads to other models, such as the previous champion, and to rows that only they
    used. A prompt was made from a base model alone, and its examples come from the evidence. Therefore its chain is
    returned whole, as is the chain of any subject that is not a champion.
    """
    record = chain.subject.record
    if record is None or record.kind == "prompt":
        return chain
    roots = tuple(root for root in chain.subject.roots if root.role != EVIDENCE)
    return walk(chain.index, replace(chain.subject, roots=roots))


def inputs_of(index: ArtifactIndex, node: ArtifactNode) -> list[tuple[str, ArtifactNode]]:
    """Return (name, node) of each input of an artifact, found by the manifest hashes that the artifact recorded."""
    recorded = node.manifest.get("input_manifests") or {}
    return [(name, index.find(*reference, recorded.get(name))) for name, reference in node.inputs.items()]


def raw_files(index: ArtifactIndex, node: ArtifactNode) -> list[RawFile]:
    """Return the files of a snapshot, whose listing is in its spec; none for any other artifact."""
    if not node.kind.startswith("raw_"):
        return []
    blobs = BlobStore(index.root)
    files = []
    for entry in node.config.get("files", []):
        sha256 = entry.get("sha256")
        kept = "refused" if sha256 is None else _how_kept(blobs, sha256)
        files.append(
            RawFile(
                snapshot=node.kind,
                name=entry["name"],
                sha256=sha256,
                bytes=entry.get("bytes", 0),
                kept=kept,
                sidecar=entry.get("sidecar"),
                source=entry.get("source"),
                revision=entry.get("revision"),
            )
        )
    return files


def _how_kept(blobs: BlobStore, sha256: str) -> str:
    """Return how a raw file is stored, without reading its bytes."""
    if blobs.is_redacted(sha256):
        return "redacted"
    if blobs.path(sha256).is_file():
        return "copy"
    return "reference" if blobs.reference_path(sha256).is_file() else "gone"


def broken_link(node: ArtifactNode, expected: str | None, recorded_by: str) -> Finding:
    """Return the finding that the manifest of `node` is not the one with the recorded hash `expected`."""
    digits = str(expected)[:SHOWN_DIGITS]
    recorded = f"the one recorded by {recorded_by} (SHA-256 {digits})"
    return Finding("broken_link", node.label, f"its manifest differs from {recorded}: it was edited or replaced")
