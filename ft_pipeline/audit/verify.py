"""Hash everything again: artifacts, raw files, pointers and champion records, and compare with what was recorded."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactIndex, ArtifactNode
from ft_pipeline.audit.audit_report import VerificationResult
from ft_pipeline.audit.chain import broken_link, inputs_of, raw_files
from ft_pipeline.audit.champion_records import check_records, check_redactions
from ft_pipeline.audit.findings import Finding
from ft_pipeline.store.artifacts import NAME_DIGITS
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import MANIFEST_NAME

Progress = Callable[[int, int], None]
"""(bytes read so far, bytes in all)."""


def verify(
    index: ArtifactIndex, nodes: Iterable[ArtifactNode] | None = None, progress: Progress | None = None
) -> VerificationResult:
    """Read and hash every file of `nodes` (None: of the whole store) and their raw files, and check the records.

    The cache of hashes, which the reuse of artifacts relies on, is not read.
    """
    chosen = list(index.all() if nodes is None else nodes)
    problems = [finding for node in chosen for finding in (*node.problems, *_misplaced(node), *_links(index, node))]
    total = sum(entry.get("bytes", 0) for node in chosen for entry in node.files)
    files = read = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for node, findings in zip(chosen, threads.map(check_files, chosen), strict=True):
            problems += findings
            files += len(node.files)
            read += sum(entry.get("bytes", 0) for entry in node.files)
            if progress:
                progress(read, total)
        raw, raw_problems = _check_raw(index, chosen, threads.map)
    records, record_problems = check_records(index)
    forgotten, redaction_problems = check_redactions(index)
    problems += [*raw_problems, *_check_pointers(index), *record_problems, *redaction_problems]
    counted = {"artifacts": len(chosen), "files": files, "bytes": read, "raw_files": raw, "champion_records": records}
    if forgotten:
        counted["redactions"] = forgotten
    return VerificationResult(True, tuple(dict.fromkeys(problems)), counted=counted)


def check_files(node: ArtifactNode) -> list[Finding]:
    """Compare every file of an artifact with its manifest: missing, extra and changed files, and links."""
    if node.path is None or not node.files:
        return []
    listed = {entry["path"]: entry for entry in node.files}
    present = {
        path.relative_to(node.path).as_posix()
        for path in node.path.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    extra = sorted(present - {*listed, MANIFEST_NAME})
    findings = [Finding("extra_file", node.label, f"{name} is not in its manifest") for name in extra]
    for name, entry in listed.items():
        if name not in present:
            findings.append(Finding("missing_file", node.label, f"{name} was removed"))
        elif message := _difference(node.path / name, entry["sha256"]):
            findings.append(Finding("changed_file", node.label, f"{name} {message}"))
    return findings


def _difference(path: Path, sha256: str) -> str | None:
    if path.is_symlink():
        return "is a link, but an artifact contains only regular files"
    try:
        actual = sha256_of_file(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if actual == sha256:
        return None
    return f"was changed: its SHA-256 is {actual[:SHOWN]}, the manifest has {sha256[:SHOWN]}"


def _misplaced(node: ArtifactNode) -> list[Finding]:
    """Findings on a folder that is a link, or whose path does not match its spec and content.

    A moved folder would be found under the name of another artifact.
    """
    if node.path is not None and (node.path.is_symlink() or node.path.parent.is_symlink()):
        message = f"{node.path.parent.name}/{node.path.name} is a link, which may point outside the store"
        return [Finding("linked_folder", node.label, message)]
    if node.path is None or not node.manifest or node.problems:
        return []
    spec, content = node.path.parent.name, node.path.name.split("-")[0]
    if (spec, content) == (node.manifest["spec_hash"][:NAME_DIGITS], node.fingerprint[:NAME_DIGITS]):
        return []
    place = f"{node.path.parent.name}/{node.path.name}"
    return [Finding("edited_manifest", node.label, f"is in {place}, which does not match its spec and content")]


def _links(index: ArtifactIndex, node: ArtifactNode) -> list[Finding]:
    """Findings on inputs that are missing, or whose manifest is not the one that this artifact recorded."""
    findings: list[Finding] = []
    recorded = node.manifest.get("input_manifests") or {}
    for name, source in inputs_of(index, node):
        if source.path is None:
            findings += source.problems
        elif not source.is_recorded_as(recorded.get(name)):
            findings.append(broken_link(source, recorded.get(name), node.label))
    return findings


def _check_raw(index: ArtifactIndex, nodes: list[ArtifactNode], each: Callable) -> tuple[int, list[Finding]]:
    """(contents read, findings). A content that is in several snapshots is read once."""
    blobs = BlobStore(index.root)
    names: dict[str, str] = {}
    for node in nodes:
        for file in raw_files(index, node) if node.kind.startswith("raw_") else []:
            for sha256, name in ((file.sha256, file.name), (file.sidecar, f"the sidecar of {file.name}")):
                if sha256:
                    names.setdefault(sha256, f"{file.snapshot}/{name} {sha256[:SHOWN]}")
    findings = []
    for (sha256, name), state in zip(names.items(), each(blobs.state, names), strict=True):
        if state == "gone":
            findings.append(Finding("missing_raw_file", name, f"its stored copy was removed (blobs/{sha256[:2]})"))
        elif state == "damaged":
            findings.append(Finding("changed_raw_file", name, f"its stored copy was changed (blobs/{sha256[:2]})"))
        elif state == "changed":
            message = "it was too large to copy, and the file that the store refers to has been moved or changed"
            findings.append(Finding("changed_raw_file", name, message))
    return len(names), findings


def _check_pointers(index: ArtifactIndex) -> list[Finding]:
    findings = []
    for pointer in index.pointers:
        where = f"current/{pointer.asset}" + (f"@{pointer.partition}" if pointer.partition else "") + ".json"
        node = index.find(pointer.kind, pointer.fingerprint, pointer.manifest_sha256)
        if node.path is None:
            findings.append(Finding("edited_pointer", where, f"points to {node.label}, which is not in the store"))
        elif not node.is_recorded_as(pointer.manifest_sha256):
            findings.append(broken_link(node, pointer.manifest_sha256, where))
    readable = {(pointer.asset, pointer.partition) for pointer in index.pointers}
    for path in sorted((index.root / "current").glob("*.json")):
        asset, _, partition = path.stem.partition("@")
        if (asset, partition or None) not in readable:
            message = "cannot be read as the pointer of the asset in its name"
            findings.append(Finding("edited_pointer", f"current/{path.name}", message))
    return findings
