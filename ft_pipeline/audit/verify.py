"""Hash everything again: artifacts, raw files, pointers and champion records, and compare with what was recorded."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from ft_pipeline import features
from ft_pipeline.audit.audit_report import VerificationResult
from ft_pipeline.audit.chain import broken_link, inputs_of, raw_files
from ft_pipeline.audit.champion_records import LEDGERS, check_redactions
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex, ArtifactNode
from ft_pipeline.lineage.findings import Finding
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal_lines import STATE
from ft_pipeline.store.ledger import RECORD_NAME
from ft_pipeline.store.manifest import MANIFEST_NAME
from ft_pipeline.store.removals import LOG_NAME, damaged_removals
from ft_pipeline.store.signature_check import SignatureFault, check_signatures
from ft_pipeline.store.spec import NAME_DIGITS
from ft_pipeline.store.verification import file_names

_BLOBS = ("*.zst", "*.zst.damaged", "*.reference.json", "*.redacted.json")
_DEPTH_OF_ARTIFACTS = 4
"""artifacts/KIND/SPEC/CONTENT: what is deeper belongs to an artifact."""
Progress = Callable[[int, int], None]
"""(bytes read so far, bytes in all)."""


def verify(
    index: ArtifactIndex,
    nodes: Iterable[ArtifactNode] | None = None,
    progress: Progress | None = None,
    public_pem: bytes | None = None,
) -> VerificationResult:
    """Read and hash every file of `nodes` (None: of the whole store) and their raw files, and check the records and
    the signed journal.

    The cache of hashes, which the reuse of artifacts relies on, is not read. public_pem: see check_signatures.
    """
    nodes_to_check = list(index.all() if nodes is None else nodes)
    problems: list[Finding] = []
    for node in nodes_to_check:
        problems += [*node.problems, *_check_folder(node), *_check_inputs(index, node)]
    bytes_read, total_bytes = 0, sum(map(_size, nodes_to_check))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for node, findings in zip(nodes_to_check, threads.map(check_files, nodes_to_check), strict=True):
            problems += findings
            bytes_read += _size(node)
            if progress:
                progress(bytes_read, total_bytes)
        raw_files_read, raw_problems = _check_raw_files(index, nodes_to_check, threads)
    ledgers = [*(check(index) for check in LEDGERS), *features.call("verified", index)]
    signatures = check_signatures(index.root, public_pem)
    problems += [
        *_with_labels(index, signatures.faults),
        *raw_problems,
        *_check_pointers(index),
        *_check_removals(index),
        *(finding for ledger in ledgers for finding in ledger.findings),
        *check_redactions(index, nodes_to_check),
        *(find_extra_files(index.root) if nodes is None else ()),
    ]
    counted = {
        "artifacts": len(nodes_to_check),
        "files": sum(len(node.files) for node in nodes_to_check),
        "bytes": bytes_read,
        "raw_files": raw_files_read,
        "champion_records": 0,
        **{ledger.counted_as: ledger.records for ledger in ledgers if ledger.records},
    }
    if signatures.facts:
        counted["signed_changes"] = signatures.facts["lines"]
    return VerificationResult(
        True,
        tuple(dict.fromkeys(problems)),
        tuple(signatures.notes),
        counted,
        signatures.facts or None,
        frozenset(signatures.state.removed) if signatures.facts else None,
    )


def _with_labels(index: ArtifactIndex, faults: Iterable[SignatureFault]) -> list[Finding]:
    """Return the faults as findings that name artifacts by their label in place of the path of their manifest."""
    findings = []
    for fault in faults:
        parts = fault.where.split("/")
        folder = index.root.joinpath(*parts[:-1])
        labelled = parts[0] == "artifacts" and len(parts) == 5 and folder.is_dir()
        where = index.read(folder, parts[1]).label if labelled else fault.where
        findings.append(Finding(fault.code, where, fault.message))
    return findings


def _size(node: ArtifactNode) -> int:
    """Return the bytes of an artifact's files, according to its manifest."""
    return sum(entry.get("bytes", 0) for entry in node.files)


def check_files(node: ArtifactNode) -> list[Finding]:
    """Compare every file of an artifact with its manifest: missing, extra and changed files, and links."""
    if node.path is None or "files" not in node.manifest:
        return []
    listed = {entry["path"]: entry for entry in node.files}
    present = file_names(node.path)
    extra = sorted(present - {*listed, MANIFEST_NAME})
    findings = [Finding("extra_file", node.label, f"{name} is not in its manifest") for name in extra]
    for name, entry in listed.items():
        if name not in present:
            findings.append(Finding("missing_file", node.label, f"{name} was removed"))
        elif message := _difference(node.path / name, entry["sha256"]):
            findings.append(Finding("changed_file", node.label, f"{name} {message}"))
    return findings


def _difference(path: Path, sha256: str) -> str | None:
    """Return how a file differs from the manifest, as part of a message; None if it does not differ."""
    if path.is_symlink() or not path.is_file():
        return "is a link or a special file, but an artifact contains only regular files"
    try:
        actual = sha256_of_file(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if actual == sha256:
        return None
    return f"was changed: its SHA-256 is {actual[:SHOWN_DIGITS]}, the manifest has {sha256[:SHOWN_DIGITS]}"


def _check_folder(node: ArtifactNode) -> list[Finding]:
    """Return findings on a folder that is a link, or whose path does not match its spec and content.

    A moved folder would be found under the name of another artifact.
    """
    if node.path is None:
        return []
    place = f"{node.path.parent.name}/{node.path.name}"
    if node.path.is_symlink() or node.path.parent.is_symlink():
        return [Finding("linked_folder", node.label, f"{place} is a link, which may point outside the store")]
    if not node.manifest or node.problems:
        return []
    spec, content = node.path.parent.name, node.path.name.split("-")[0]
    if (spec, content) == (node.manifest["spec_hash"][:NAME_DIGITS], node.fingerprint[:NAME_DIGITS]):
        return []
    return [Finding("edited_manifest", node.label, f"is in {place}, which does not match its spec and content")]


def _check_inputs(index: ArtifactIndex, node: ArtifactNode) -> list[Finding]:
    """Return findings on inputs that are missing, or whose manifest is not the one that this artifact recorded."""
    findings: list[Finding] = []
    recorded = node.manifest.get("input_manifests") or {}
    for name, input_node in inputs_of(index, node):
        if input_node.path is None:
            findings += input_node.problems
        elif not input_node.is_recorded_as(recorded.get(name)):
            findings.append(broken_link(input_node, recorded.get(name), node.label))
    return findings


def _check_raw_files(
    index: ArtifactIndex, nodes: Iterable[ArtifactNode], threads: ThreadPoolExecutor
) -> tuple[int, list[Finding]]:
    """Return (number of blobs read, findings). A blob that is in several snapshots is read once."""
    names = _blob_names(index, nodes)
    findings = []
    for (sha256, name), state in zip(names.items(), threads.map(BlobStore(index.root).state, names), strict=True):
        if state == "gone":
            findings.append(Finding("missing_raw_file", name, f"its stored copy was removed (blobs/{sha256[:2]})"))
        elif state == "damaged":
            findings.append(Finding("changed_raw_file", name, f"its stored copy was changed (blobs/{sha256[:2]})"))
        elif state == "changed":
            message = "it was too large to copy, and the file that the store refers to has been moved or changed"
            findings.append(Finding("changed_raw_file", name, message))
    return len(names), findings


def _blob_names(index: ArtifactIndex, nodes: Iterable[ArtifactNode]) -> dict[str, str]:
    """Return SHA-256 → name in a finding, of each raw file and sidecar in the snapshots among `nodes`."""
    names: dict[str, str] = {}
    for file in (file for node in nodes for file in raw_files(index, node)):
        for sha256, name in ((file.sha256, file.name), (file.sidecar, f"the sidecar of {file.name}")):
            if sha256:
                names.setdefault(sha256, f"{file.snapshot}/{name} {sha256[:SHOWN_DIGITS]}")
    return names


def _check_removals(index: ArtifactIndex) -> list[Finding]:
    """Return a finding if the list of what `ft gc` removed cannot be read."""
    message = damaged_removals(index.root)
    return [Finding("edited_record", LOG_NAME, message)] if message else []


def _check_pointers(index: ArtifactIndex) -> list[Finding]:
    """Return findings on pointers to other manifests or missing artifacts, and on unreadable pointers."""
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


def find_extra_files(root: Path) -> list[Finding]:
    """Return a finding for each file of the store `root` in a place where the pipeline writes none.

    Only folders with records, artifacts and raw files are searched. Files whose name begins with a dot are those of a
    write that did not end.
    """
    folders = sorted({pattern.split("/", 1)[0] for pattern in STATE})
    return [
        Finding("extra_file", path.relative_to(root).as_posix(), "is not a file that the pipeline writes")
        for folder in folders
        for path in _files_below(root / folder, root)
        if not path.name.startswith(".") and not _is_expected(path, path.relative_to(root))
    ]


def _files_below(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `folder` in order, without those of artifacts. Folders that are links are yielded, too."""
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        yield folder
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() or not path.is_dir() or path.suffix == ".json":
            yield path
        elif path.relative_to(root).parts[0] != "artifacts" or len(path.relative_to(root).parts) < _DEPTH_OF_ARTIFACTS:
            yield from _files_below(path, root)


def _is_expected(path: Path, place: Path) -> bool:
    """Return whether the pipeline writes such a file. place: the path in the store."""
    if place.parts[0] == "artifacts":  # deeper ones are found there
        return len(place.parts) >= _DEPTH_OF_ARTIFACTS
    if path.is_symlink() or not path.is_file():
        return False
    if place.parts[:2] in (("exposures", "rows"), ("ratings", "rows")):
        return len(place.parts) == 3
    if place.parts[0] == "blobs":
        return len(place.parts) == 3 and any(fnmatchcase(place.name, pattern) for pattern in _BLOBS)
    if place.parts[0] == "exposures" and place.name.endswith(".result.json"):
        return len(place.parts) == 2 and RECORD_NAME.match(place.name.replace(".result", "")) is not None
    return len(place.parts) == 2 and (place.match("current/*.json") or RECORD_NAME.match(place.name) is not None)
