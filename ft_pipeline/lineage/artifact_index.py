"""Artifacts of the store by identity. Only manifests are read, so that thousands are listed quickly."""

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.lineage.findings import Finding, FindingCode
from ft_pipeline.release.champion import history
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.checked_json import Digest, Number, UnreadableJson, read_checked
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.manifest import (
    MANIFEST_NAME,
    BrokenArtifact,
    ManifestShape,
    SpecShape,
    expected_files,
    manifest_hashes,
    read_manifest,
)
from ft_pipeline.store.spec import NAME_DIGITS, ArtifactReference


@dataclass(frozen=True)
class _RawFile:
    name: str
    sha256: Digest | None = None
    bytes: Number = 0
    sidecar: Digest | None = None


@dataclass(frozen=True)
class _Config:
    files: list[_RawFile] = field(default_factory=list)
    records: Number = 0
    teacher: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Spec(SpecShape):
    config: _Config = _Config()  # type: ignore[assignment]


@dataclass(frozen=True)
class _OfConfig(ManifestShape):
    """A snapshot, the verdicts of people or distilled rows. Each has one of the keys."""

    spec: _Spec = _Spec()


@dataclass(frozen=True)
class _Record:
    sequence: Number


@dataclass(frozen=True)
class _Entry:
    entry: Number = 0


@dataclass(frozen=True)
class _Summary:
    champion: _Record | None = None
    exposure: _Entry = _Entry()


@dataclass(frozen=True)
class _OfSummary(ManifestShape):
    """A champion or a decision. Each has one of the keys."""

    summary: _Summary = _Summary()  # type: ignore[assignment]


_SHAPES = {"ratings": _OfConfig, "distilled": _OfConfig, "champion": _OfSummary, "decision": _OfSummary}


SHOWN_DIGITS = 12
"""Number of digits of a fingerprint or hash that are displayed."""


@dataclass(frozen=True)
class ArtifactNode:
    """One artifact of a chain. It may be missing from the store."""

    kind: str
    fingerprint: str
    path: Path | None = None
    """None if the artifact is not in the store."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Empty if the manifest cannot be read."""
    manifest_sha256: str | None = None
    problems: tuple[Finding, ...] = ()
    """Problems that the manifest alone shows."""

    @property
    def key(self) -> str:
        """The asset and its experiment, such as `adapter[qlora]`."""
        experiment = self.run.get("experiment")
        return f"{self.kind}[{experiment}]" if experiment else self.kind

    @property
    def label(self) -> str:
        """The name of the artifact in a finding."""
        return f"{self.key} {self.fingerprint[:SHOWN_DIGITS]}"

    @property
    def run(self) -> dict[str, Any]:
        """The run that made it: experiment, run id, who started it, device and others."""
        run = self.manifest.get("run")
        return run if isinstance(run, dict) else {}

    @property
    def spec(self) -> dict[str, Any]:
        spec = self.manifest.get("spec")
        return spec if isinstance(spec, dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        return self.spec.get("config") or {}

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.get("summary") or {}

    @property
    def inputs(self) -> dict[str, ArtifactReference]:
        """The artifacts that it was made from, by name."""
        inputs = self.spec.get("inputs") or {}
        return {name: (reference["kind"], reference["fingerprint"]) for name, reference in inputs.items()}

    @property
    def code_version(self) -> str | None:
        return (self.spec.get("versions") or {}).get("code")

    @property
    def redacted(self) -> bool:
        """Whether `ft erase` removed rows from the artifact."""
        return bool(self.manifest.get("redactions"))

    def is_recorded_as(self, manifest_sha256: str | None) -> bool:
        """Whether a later record refers to this manifest, by its current hash or by its hash before a redaction."""
        return manifest_sha256 in manifest_hashes(self.manifest, self.manifest_sha256)

    @property
    def files(self) -> list[dict[str, Any]]:
        """Entries of the files that should be in the folder now."""
        return expected_files(self.manifest) if self.manifest.get("files") else []


class ArtifactIndex:
    """Finds the artifacts of a store. Each folder is read once; later changes are not seen."""

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
    def consumers(self) -> dict[ArtifactReference, list[ArtifactNode]]:
        """The artifacts that were made from each artifact, in order of creation."""
        consumers: dict[ArtifactReference, list[ArtifactNode]] = defaultdict(list)
        for node in self.all():
            for reference in dict.fromkeys(node.inputs.values()):
                consumers[reference].append(node)
        return consumers

    def pointer(self, asset: str, experiment: str | None = None) -> Pointer | None:
        """Return the pointer to the latest artifact of an asset, or None. Assets of experiments need `experiment`."""
        pointers = self.pointers
        return next(
            (pointer for pointer in pointers if (pointer.asset, pointer.partition) == (asset, experiment)), None
        )

    def kinds(self) -> list[str]:
        """Return all kinds that are in the store, sorted."""
        return sorted(path.name for path in (self.root / "artifacts").glob("*") if path.is_dir())

    def find(self, kind: str, fingerprint: str, manifest_sha256: str | None = None) -> ArtifactNode:
        """Return the artifact with this content.

        Several artifacts can have the same content: different specs gave it, or a damaged artifact was rebuilt. The
        one with this manifest is preferred, then the one with the fewest problems, then the newest. If there is none,
        the returned node has no path, and its problem is `missing_artifact`.
        """
        nodes = [self.read(folder, kind) for folder in self.folders(kind).get(fingerprint[:NAME_DIGITS], [])]
        nodes = [node for node in nodes if node.fingerprint == fingerprint or not node.manifest]
        if not nodes:
            label = ArtifactNode(kind, fingerprint).label
            finding = Finding("missing_artifact", label, "is not in the store: its folder was removed or renamed")
            return ArtifactNode(kind, fingerprint, problems=(finding,))
        newest_first = sorted(nodes, key=lambda node: str(node.manifest.get("created", "")), reverse=True)
        return min(newest_first, key=lambda node: (not node.is_recorded_as(manifest_sha256), len(node.problems)))

    def all(self, kind: str | None = None) -> list[ArtifactNode]:
        """Return all artifacts (of one kind), damaged ones included, in order of creation."""
        kinds = [kind] if kind else self.kinds()
        nodes = [self.read(path, name) for name in kinds for paths in self.folders(name).values() for path in paths]
        return sorted(nodes, key=lambda node: (str(node.manifest.get("created", "")), node.kind))

    def with_fingerprint_prefix(self, digits: str) -> list[ArtifactNode]:
        """Return the artifacts whose fingerprint starts with `digits`, one per content."""
        nodes: dict[ArtifactReference, ArtifactNode] = {}
        for kind in self.kinds():
            for first_digits, paths in self.folders(kind).items():
                if first_digits.startswith(digits[:NAME_DIGITS]):
                    nodes |= {(node.kind, node.fingerprint): node for node in (self.read(path, kind) for path in paths)}
        return [node for node in nodes.values() if node.fingerprint.startswith(digits)]

    def folders(self, kind: str) -> dict[str, list[Path]]:
        """Return first digits of the fingerprint → folders of that content."""
        if kind not in self._folders:
            folders: dict[str, list[Path]] = defaultdict(list)
            for path in sorted((self.root / "artifacts" / kind).glob("*/*")):
                folders[path.name[:NAME_DIGITS]].append(path)
            self._folders[kind] = folders
        return self._folders[kind]

    def read(self, folder: Path, kind: str) -> ArtifactNode:
        """Return the artifact in a folder. If its manifest is missing or broken, that is its problem."""
        if folder not in self._nodes:
            self._nodes[folder] = _read(folder, kind)
        return self._nodes[folder]


def _read(folder: Path, kind: str) -> ArtifactNode:
    try:
        manifest = read_manifest(folder, shape_of(kind))
    except BrokenArtifact as error:
        return _read_broken(folder, kind, str(error))
    if manifest["kind"] != kind:
        return _read_broken(folder, kind, f"{MANIFEST_NAME} is that of the kind {manifest['kind']}")
    return ArtifactNode(
        manifest["kind"], manifest["fingerprint"], folder, manifest, sha256_of_file(folder / MANIFEST_NAME)
    )


def _read_broken(folder: Path, kind: str, why: str) -> ArtifactNode:
    """Return an artifact with as much of its broken manifest as can be read, so that the walk continues to its inputs.

    why: what is wrong with the manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = read_checked(path, shape_of(kind))
        node = ArtifactNode(kind, manifest["fingerprint"], folder, manifest, sha256_of_file(path))
    except (OSError, UnreadableJson):
        node = ArtifactNode(kind, folder.name, folder)
    code: FindingCode = "edited_manifest" if path.is_file() else "missing_manifest"
    finding = Finding(code, node.label, f"{why} (in {folder.parent.name}/{folder.name})")
    return ArtifactNode(kind, node.fingerprint, folder, node.manifest, node.manifest_sha256, (finding,))


def shape_of(kind: str) -> type[ManifestShape]:
    """Return the types of the manifests of a kind."""
    return _OfConfig if kind.startswith("raw_") else _SHAPES.get(kind, ManifestShape)
