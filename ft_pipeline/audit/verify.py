"""Everything hashed again: artifacts, raw files, pointers and champion records, held against what vouches for them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactIndex, ArtifactNode
from ft_pipeline.audit.audit_report import VerificationResult
from ft_pipeline.audit.chain import broken_link, inputs_of, raw_files
from ft_pipeline.audit.champion_records import check_records, check_redactions
from ft_pipeline.audit.findings import Finding
from ft_pipeline.store.artifacts import SHORT
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import NAME

Progress = Callable[[int, int], None]
"""(bytes read so far, bytes in all)."""


def verify(
    library: ArtifactIndex, nodes: Iterable[ArtifactNode] | None = None, progress: Progress | None = None
) -> VerificationResult:
    """Read and hash every file of `nodes` (None: of the whole store), the raw files behind them, and the records.

    Nothing is taken from the cache of hashes that reading for reuse relies on.
    """
    chosen = list(library.all() if nodes is None else nodes)
    problems = [finding for node in chosen for finding in (*node.problems, *_misplaced(node), *_links(library, node))]
    total = sum(entry.get("bytes", 0) for node in chosen for entry in node.files)
    files = read = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for node, found in zip(chosen, threads.map(check_files, chosen), strict=True):
            problems += found
            files += len(node.files)
            read += sum(entry.get("bytes", 0) for entry in node.files)
            if progress:
                progress(read, total)
        raw, raw_problems = _check_raw(library, chosen, threads.map)
    records, record_problems = check_records(library)
    forgotten, redaction_problems = check_redactions(library)
    problems += [*raw_problems, *_check_pointers(library), *record_problems, *redaction_problems]
    counted = {"artifacts": len(chosen), "files": files, "bytes": read, "raw_files": raw, "champion_records": records}
    if forgotten:
        counted["redactions"] = forgotten
    return VerificationResult(True, tuple(dict.fromkeys(problems)), counted=counted)


def check_files(node: ArtifactNode) -> list[Finding]:
    """Every file of an artifact against its manifest: missing, added, another size or hash, a link."""
    if node.path is None or not node.files:
        return []
    listed = {entry["path"]: entry for entry in node.files}
    present = {
        path.relative_to(node.path).as_posix()
        for path in node.path.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    extra = sorted(present - {*listed, NAME})
    found = [Finding("extra_file", node.label, f"{name} is not in its manifest") for name in extra]
    for name, entry in listed.items():
        if name not in present:
            found.append(Finding("missing_file", node.label, f"{name} was removed"))
        elif message := _difference(node.path / name, entry["sha256"]):
            found.append(Finding("changed_file", node.label, f"{name} {message}"))
    return found


def _difference(path: Path, sha256: str) -> str | None:
    if path.is_symlink():
        return "is a link; an artifact holds plain files only"
    try:
        found = sha256_of_file(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found == sha256:
        return None
    return f"was changed: its SHA-256 is {found[:SHOWN]}, the manifest has {sha256[:SHOWN]}"


def _misplaced(node: ArtifactNode) -> list[Finding]:
    """A folder lies where its spec and its content say, itself and not a link; one that was moved would be found under
    another's name."""
    if node.path is not None and (node.path.is_symlink() or node.path.parent.is_symlink()):
        message = f"{node.path.parent.name}/{node.path.name} is a link, which may lead out of the store"
        return [Finding("linked_folder", node.label, message)]
    if node.path is None or not node.manifest or node.problems:
        return []
    spec, content = node.path.parent.name, node.path.name.split("-")[0]
    if (spec, content) == (node.manifest["spec_hash"][:SHORT], node.fingerprint[:SHORT]):
        return []
    place = f"{node.path.parent.name}/{node.path.name}"
    return [Finding("edited_manifest", node.label, f"lies under {place}, which is not its spec's and content's name")]


def _links(library: ArtifactIndex, node: ArtifactNode) -> list[Finding]:
    """The inputs are there, with the manifests that this one recorded."""
    found: list[Finding] = []
    recorded = node.manifest.get("input_manifests") or {}
    for name, each in inputs_of(library, node):
        if each.path is None:
            found += each.problems
        elif not each.is_recorded_as(recorded.get(name)):
            found.append(broken_link(each, recorded.get(name), node.label))
    return found


def _check_raw(library: ArtifactIndex, nodes: list[ArtifactNode], each: Callable) -> tuple[int, list[Finding]]:
    """(contents read, findings); a content that several snapshots hold is read once."""
    blobs = BlobStore(library.root)
    names: dict[str, str] = {}
    for node in nodes:
        for file in raw_files(library, node) if node.kind.startswith("raw_") else []:
            for sha256, name in ((file.sha256, file.name), (file.sidecar, f"the sidecar of {file.name}")):
                if sha256:
                    names.setdefault(sha256, f"{file.snapshot}/{name} {sha256[:SHOWN]}")
    found = []
    for (sha256, name), state in zip(names.items(), each(blobs.state, names), strict=True):
        if state == "gone":
            found.append(Finding("missing_raw_file", name, f"its kept copy was removed (blobs/{sha256[:2]})"))
        elif state == "damaged":
            found.append(Finding("changed_raw_file", name, f"its kept copy was changed (blobs/{sha256[:2]})"))
        elif state == "changed":
            message = "it was too large to be copied, and the file it refers to was moved or changed since"
            found.append(Finding("changed_raw_file", name, message))
    return len(names), found


def _check_pointers(library: ArtifactIndex) -> list[Finding]:
    found = []
    for pointer in library.pointers:
        where = f"current/{pointer.asset}" + (f"@{pointer.partition}" if pointer.partition else "") + ".json"
        node = library.find(pointer.kind, pointer.fingerprint, pointer.manifest_sha256)
        if node.path is None:
            found.append(Finding("edited_pointer", where, f"points to {node.label}, which is not in the store"))
        elif not node.is_recorded_as(pointer.manifest_sha256):
            found.append(broken_link(node, pointer.manifest_sha256, where))
    readable = {(pointer.asset, pointer.partition) for pointer in library.pointers}
    for path in sorted((library.root / "current").glob("*.json")):
        asset, _, partition = path.stem.partition("@")
        if (asset, partition or None) not in readable:
            message = "cannot be read as the pointer of the asset it is named after"
            found.append(Finding("edited_pointer", f"current/{path.name}", message))
    return found
