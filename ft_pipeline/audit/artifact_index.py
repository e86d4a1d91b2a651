"""The store's artifacts by identity, read from their manifests alone: thousands are listed in a moment."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_pipeline.audit.findings import Code, Finding
from ft_pipeline.release.champion import ChampionRecord, history
from ft_pipeline.store.artifacts import SHORT
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import NAME, BrokenArtifact, manifest_hashes, present_files, read_manifest

SHOWN = 12
"""Digits of a fingerprint that people are shown."""


@dataclass(frozen=True)
class ArtifactNode:
    """One artifact of a chain, or the place where it should be."""

    kind: str
    fingerprint: str
    path: Path | None = None
    """None where the store does not hold it."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Empty where it cannot be read."""
    manifest_sha256: str | None = None
    problems: tuple[Finding, ...] = ()
    """What its manifest alone shows to be wrong."""

    @property
    def key(self) -> str:
        """`adapter[qlora]`: the asset, and the experiment that it was made for."""
        experiment = self.run.get("experiment")
        return f"{self.kind}[{experiment}]" if experiment else self.kind

    @property
    def label(self) -> str:
        """How a finding names it."""
        return f"{self.key} {self.fingerprint[:SHOWN]}"

    @property
    def run(self) -> dict[str, Any]:
        found = self.manifest.get("run")
        return found if isinstance(found, dict) else {}

    @property
    def spec(self) -> dict[str, Any]:
        found = self.manifest.get("spec")
        return found if isinstance(found, dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        return self.spec.get("config") or {}

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.get("summary") or {}

    @property
    def inputs(self) -> dict[str, tuple[str, str]]:
        """Input name → (kind, fingerprint)."""
        return {name: (each["kind"], each["fingerprint"]) for name, each in (self.spec.get("inputs") or {}).items()}

    @property
    def code_version(self) -> str | None:
        return (self.spec.get("versions") or {}).get("code")

    @property
    def redacted(self) -> bool:
        """Whether rows were taken out of it since (`ft erase`)."""
        return bool(self.manifest.get("redactions"))

    def is_recorded_as(self, manifest_sha256: str | None) -> bool:
        """Whether a later record means this manifest: by its hash now, or from before a redaction."""
        return manifest_sha256 in manifest_hashes(self.manifest, self.manifest_sha256)

    @property
    def files(self) -> list[dict[str, Any]]:
        """As they should stand now."""
        return present_files(self.manifest) if self.manifest.get("files") else []


class ArtifactIndex:
    """Finds the nodes of a store; a library is read once and does not follow later changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, dict[str, list[Path]]] = {}
        self._nodes: dict[Path, ArtifactNode] = {}

    @cached_property
    def pointers(self) -> list[Pointer]:
        return AssetPointers(self.root).all()

    @cached_property
    def champion_records(self) -> list[ChampionRecord]:
        """Oldest first."""
        return history(self.root)

    @cached_property
    def users(self) -> dict[tuple[str, str], list[ArtifactNode]]:
        """(kind, fingerprint) → the artifacts that were made from it, in order of creation."""
        found: dict[tuple[str, str], list[ArtifactNode]] = defaultdict(list)
        for node in self.all():
            for reference in dict.fromkeys(node.inputs.values()):
                found[reference].append(node)
        return found

    def pointer(self, asset: str, experiment: str | None = None) -> Pointer | None:
        """What an asset was last materialized to; an asset of experiments needs one."""
        return next((each for each in self.pointers if (each.asset, each.partition) == (asset, experiment)), None)

    def kinds(self) -> list[str]:
        return sorted(path.name for path in (self.root / "artifacts").glob("*") if path.is_dir())

    def find(self, kind: str, fingerprint: str, manifest_sha256: str | None = None) -> ArtifactNode:
        """The artifact with this content: the one with this very manifest, else the newest (several specs may have
        given the same content, and a damaged one may have been rebuilt beside it).

        A node without path where there is none; a problem of it says so.
        """
        nodes = [self.read(folder, kind) for folder in self.folders(kind).get(fingerprint[:SHORT], [])]
        nodes = [node for node in nodes if node.fingerprint == fingerprint or not node.manifest]
        if not nodes:
            gone = ArtifactNode(kind, fingerprint)
            finding = Finding("missing_artifact", gone.label, "is not in the store: its folder was removed or renamed")
            return ArtifactNode(kind, fingerprint, problems=(finding,))
        newest_first = sorted(nodes, key=lambda node: str(node.manifest.get("created", "")), reverse=True)
        return min(newest_first, key=lambda node: (not node.is_recorded_as(manifest_sha256), len(node.problems)))

    def all(self, kind: str | None = None) -> list[ArtifactNode]:
        """Every artifact's folder, sound or not, in order of creation."""
        kinds = [kind] if kind else self.kinds()
        nodes = [self.read(path, each) for each in kinds for paths in self.folders(each).values() for path in paths]
        return sorted(nodes, key=lambda node: (str(node.manifest.get("created", "")), node.kind))

    def starting_with(self, digits: str) -> list[ArtifactNode]:
        """The artifacts whose fingerprint begins so, one per content."""
        found = {
            (node.kind, node.fingerprint): node
            for kind in self.kinds()
            for short, paths in self.folders(kind).items()
            if short.startswith(digits[:SHORT])
            for node in (self.read(path, kind) for path in paths)
            if node.fingerprint.startswith(digits)
        }
        return list(found.values())

    def folders(self, kind: str) -> dict[str, list[Path]]:
        """First digits of the fingerprint → folders of that content."""
        if kind not in self._folders:
            found: dict[str, list[Path]] = defaultdict(list)
            for path in sorted((self.root / "artifacts" / kind).glob("*/*")):
                found[path.name[:SHORT]].append(path)
            self._folders[kind] = found
        return self._folders[kind]

    def read(self, folder: Path, kind: str) -> ArtifactNode:
        """The node of a folder; what is wrong with its manifest is among its problems."""
        if folder not in self._nodes:
            self._nodes[folder] = _read(folder, kind)
        return self._nodes[folder]


def _read(folder: Path, kind: str) -> ArtifactNode:
    try:
        manifest = read_manifest(folder)
    except BrokenArtifact as error:
        return _read_broken(folder, kind, str(error))
    return ArtifactNode(manifest["kind"], manifest["fingerprint"], folder, manifest, sha256_of_file(folder / NAME))


def _read_broken(folder: Path, kind: str, why: str) -> ArtifactNode:
    """As much of an edited manifest as can be read, so that the walk goes on behind it."""
    path = folder / NAME
    try:
        manifest = json.loads(path.read_bytes())
        fingerprint = manifest["fingerprint"]
        node = ArtifactNode(kind, str(fingerprint), folder, manifest, sha256_of_file(path))
        _ = (node.label, node.inputs, node.files[:1], node.code_version)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        node = ArtifactNode(kind, folder.name, folder)
    code: Code = "edited_manifest" if path.is_file() else "missing_manifest"
    finding = Finding(code, node.label, f"{why} (in {folder.parent.name}/{folder.name})")
    return ArtifactNode(kind, node.fingerprint, folder, node.manifest, node.manifest_sha256, (finding,))
