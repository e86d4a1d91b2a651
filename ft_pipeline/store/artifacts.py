"""Immutable artifacts: folders that appear complete, with a manifest, or not at all.

data/store/
  artifacts/<kind>/<spec hash>/<fingerprint>/   files and manifest.json
  blobs/      bytes of the raw files (blobs.py)
  current/    pointers to the latest artifact of each asset (asset_pointers.py)
  journal.jsonl   a signed line for each change of what is here (journal.py); signing_key.pub verifies it
  champion/, redactions/, removed.jsonl   records of releases, erasures and garbage collections
  drafts/     unfinished folders; a crash leaves one, and the next attempt at the same spec removes it
  work/       checkpoints of unfinished steps, which the same spec reuses
  locks/      one writer per spec
  teachers/   requests and replies of each endpoint teacher, append-only: already paid for, and not yet in an artifact
  cache/      hashes and results of files that have not changed since they were read
"""

import contextlib
import json
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store import journal, journal_lines, provenance
from ft_pipeline.store.atomic_files import sync_file, sync_folder, translate_write_errors, write_atomically
from ft_pipeline.store.hashing import hashes_of_files, plain_json, sha256_of_file, sha256_of_json
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.manifest import (
    MANIFEST_NAME,
    BrokenArtifact,
    describe_files,
    fingerprint_of,
    read_manifest,
    sealed_manifest,
)
from ft_pipeline.store.spec import NAME_DIGITS, RETIRED_VERSIONS, ArtifactReference, Spec, without_retired_versions
from ft_pipeline.store.stat_cache import StatCache
from ft_pipeline.store.verification import verified_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A finished, verified folder of the store."""

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def fingerprint(self) -> str:
        """The identity: a hash of the content."""
        return self.manifest["fingerprint"]

    @property
    def spec_hash(self) -> str:
        return self.manifest["spec_hash"]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that it was built from: kind, inputs, config, versions, seed."""
        return self.manifest["spec"]

    @cached_property
    def present_spec(self) -> dict[str, Any]:
        """The same spec as it is written now, which plans compare."""
        return without_retired_versions(self.spec)

    @cached_property
    def present_spec_hash(self) -> str:
        return self.spec_hash if self.present_spec == self.spec else sha256_of_json(self.present_spec)

    def is_of(self, spec: Spec) -> bool:
        """Return whether it was built from `spec`."""
        return self.present_spec_hash == spec.hash

    @property
    def inputs(self) -> dict[str, ArtifactReference]:
        """The artifacts that it was built from, by name."""
        return {name: (entry["kind"], entry["fingerprint"]) for name, entry in self.spec["inputs"].items()}

    @property
    def reference(self) -> ArtifactReference:
        """How another spec names it as an input."""
        return self.kind, self.fingerprint

    @property
    def summary(self) -> dict[str, Any]:
        """The step's summary of its result."""
        return self.manifest["summary"]

    @property
    def redacted(self) -> bool:
        """Whether rows were removed from its files (`ft erase`). Such an artifact is not reused."""
        return any(redaction["files"] for redaction in self.manifest.get("redactions", ()))

    def document(self, name: str) -> Any:
        """Return the content of one of its JSON files."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    @cached_property
    def manifest_sha256(self) -> str:
        """The hash by which the manifests of later artifacts refer to this one."""
        return sha256_of_file(self.path / MANIFEST_NAME)


@dataclass(frozen=True)
class Draft:
    """An artifact that is being built."""

    spec: Spec
    folder: Path
    """Contains `out`, and the job and the log of the process that builds the artifact. Removed after the commit."""
    out: Path
    """Finished files are written here. It becomes the artifact."""
    work: Path
    """Scratch files that survive a kill and that the same spec reuses. Removed after the commit."""
    begun: str
    """When it was created: UTC, ISO 8601."""


class ArtifactStore:
    """The store's artifacts. Reading needs no lock and writes only a cache. Building takes the spec's lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artifacts = root / "artifacts"
        self.file_hashes = StatCache(root)

    # --- reading ------------------------------------------------------------------------------------------------------

    def find(self, spec: Spec, log: Callable[[str], None] = logger.warning) -> Artifact | None:
        """Return the newest valid artifact of `spec`, if any. `log` receives the reason when one is skipped."""

        def is_usable(artifact: Artifact) -> bool:
            return artifact.is_of(spec) and not artifact.redacted

        present = self._first_valid(self._spec_folder(spec.kind, spec.hash).glob("*"), log, is_usable)
        return present or self._first_valid(self._older_folders(spec.kind).get(spec.hash, ()), log, is_usable)

    def open(
        self,
        kind: str,
        fingerprint: str,
        log: Callable[[str], None] = logger.warning,
        manifest_sha256: str | None = None,
    ) -> Artifact | None:
        """Return the artifact with this content, verified; None if the store has no valid one.

        manifest_sha256: the manifest to prefer if several specs gave the same content.
        """
        folders = self._folders_of_content(kind, fingerprint[:NAME_DIGITS])

        def has_content(artifact: Artifact) -> bool:
            return artifact.fingerprint == fingerprint

        def has_content_and_manifest(artifact: Artifact) -> bool:
            return has_content(artifact) and artifact.manifest_sha256 == manifest_sha256

        preferred = self._first_valid(folders, log, has_content_and_manifest) if manifest_sha256 else None
        return preferred or self._first_valid(folders, log, has_content)

    def require(self, kind: str, fingerprint: str, log: Callable[[str], None] = logger.warning) -> Artifact:
        """Return the same as `open`; UserError if the store has no valid one."""
        artifact = self.open(kind, fingerprint, log)
        if artifact is None:
            raise UserError(
                f"{kind} {fingerprint[:NAME_DIGITS]} is not in the store, or is damaged: materialize {kind} again"
            )
        return artifact

    def all(self, kind: str | None = None) -> list[Artifact]:
        """Return every artifact with a valid manifest, in order of creation. Its files are not read."""
        artifacts = []
        for manifest in self.artifacts.glob(f"{kind or '*'}/*/*/{MANIFEST_NAME}"):
            folder = manifest.parent
            try:
                artifacts.append(Artifact(folder, read_manifest(folder)))
            except BrokenArtifact as error:
                logger.warning("%s: %s", folder, error)
        return sorted(artifacts, key=lambda artifact: artifact.manifest["created"])

    def verify(self, folder: Path, *, thorough: bool = False) -> Artifact:
        """Return the artifact in `folder`.

        Raises BrokenArtifact if a file is missing, was added, differs from the manifest or is named like a pickle, or
        if a file or the folder is a link. Files that have not changed since they were last read are not read again,
        unless `thorough`.
        """
        hash_files = hashes_of_files if thorough else self.file_hashes.hashes
        return Artifact(folder, verified_manifest(folder, hash_files))

    def hashes_below(self, folder: Path, names: list[str], failed: dict[str, OSError] | None = None) -> dict[str, str]:
        """Return the SHA-256 of files below the folder of the store or of the project, by their path in it. Files that
        have not changed since they were last read are not read again. failed: as in StatCache.hashes."""
        return self.file_hashes.hashes(folder, names, failed=failed)

    def _first_valid(
        self, folders: Iterable[Path], log: Callable[[str], None], accept: Callable[[Artifact], bool]
    ) -> Artifact | None:
        """Return the newest valid artifact of `folders` that `accept` accepts. `log` receives a line for each damaged
        one."""
        readable = []
        for folder in sorted(folders):
            try:
                readable.append(Artifact(folder, read_manifest(folder)))
            except BrokenArtifact as error:
                log(f"skipped {folder.relative_to(self.root)}: {error}")
        for artifact in sorted(filter(accept, readable), key=_creation_order, reverse=True):
            try:
                return self.verify(artifact.path)
            except BrokenArtifact as error:
                log(f"skipped {artifact.path.relative_to(self.root)}: {error}")
        return None

    # --- building -----------------------------------------------------------------------------------------------------

    def lock(self, spec: Spec) -> FileLock:
        """Return the lock for building `spec`."""
        return FileLock(self.root / "locks" / _lock_name(spec), f"building {spec.kind}")

    def building(self, spec: Spec, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold the spec's lock for a `with` block. `log` receives a message if another run holds the lock."""
        return self.lock(spec).hold(log)

    def begin(self, spec: Spec, *, from_scratch: bool = False) -> Draft:
        """Return a new folder to fill. The caller must hold the spec's lock.

        Unfinished files of an earlier attempt are removed. Its checkpoints are removed only if `from_scratch`. Raises
        UserError if the store cannot be written, or is signed with a key that is missing.
        """
        name = _lock_name(spec)
        work = self.root / "work" / spec.kind / spec.hash[:NAME_DIGITS]
        journal.complete_last_change(self.root)
        with translate_write_errors():
            for leftover in (self.root / "drafts").glob(f"{name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if from_scratch:
                shutil.rmtree(work, ignore_errors=True)
            (self.root / "drafts").mkdir(parents=True, exist_ok=True)
            work.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.root / "drafts"))
            (folder / "out").mkdir()
        return Draft(spec, folder, folder / "out", work, _now())

    def commit(self, draft: Draft, summary: dict[str, Any], run_info: dict[str, Any] | None = None) -> Artifact:
        """Make the draft an artifact: hash its files, write the manifest last, rename it into place.

        If the spec already has a valid artifact with the same content, that artifact is returned. If that artifact is
        damaged or redacted, it stays, and the new one is stored next to it. Raises UserError if the store cannot be
        written, and BrokenArtifact if a file is a pickle, a link or a special file.
        """
        with translate_write_errors():
            files = describe_files(draft.out)
            fingerprint = fingerprint_of(draft.spec.kind, files)
            artifact = self._find_same_content(draft.spec, fingerprint)
            if artifact is None:
                for entry in files:
                    sync_file(draft.out / entry.path)
                manifest = self._describe(draft, fingerprint, summary, run_info or {})
                manifest["files"] = [entry.to_json() for entry in files]
                write_atomically(draft.out / MANIFEST_NAME, sealed_manifest(manifest))
                folder = self._move_into_place(draft, fingerprint)
                artifact = Artifact(folder, read_manifest(folder))
        self.discard(draft)
        shutil.rmtree(draft.work, ignore_errors=True)
        return artifact

    def discard(self, draft: Draft) -> None:
        """Remove a draft; its checkpoints stay."""
        shutil.rmtree(draft.folder, ignore_errors=True)

    def _find_same_content(self, spec: Spec, fingerprint: str) -> Artifact | None:
        folders = self._spec_folder(spec.kind, spec.hash).glob(f"{fingerprint[:NAME_DIGITS]}*")
        return self._first_valid(
            folders, logger.warning, lambda artifact: artifact.fingerprint == fingerprint and not artifact.redacted
        )

    def _move_into_place(self, draft: Draft, fingerprint: str) -> Path:
        """Rename the draft's finished files to the artifact's folder, and return that folder."""
        parent = self._spec_folder(draft.spec.kind, draft.spec.hash)
        for folder in (path for path in draft.out.rglob("*") if path.is_dir()):
            sync_folder(folder)
        with journal.changing(self.root) as sign:
            target, attempt = parent / fingerprint[:NAME_DIGITS], 1
            while target.exists():
                attempt += 1
                target = parent / f"{fingerprint[:NAME_DIGITS]}-{attempt}"
            manifest = (target / MANIFEST_NAME).relative_to(self.root).as_posix()
            sign(journal_lines.ARTIFACT, {manifest: sha256_of_file(draft.out / MANIFEST_NAME)})
            parent.mkdir(parents=True, exist_ok=True)
            draft.out.rename(target)
            sync_folder(parent)
        return target

    def _describe(
        self, draft: Draft, fingerprint: str, summary: dict[str, Any], run_info: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the manifest of a draft, without its files and its seal."""
        spec = draft.spec
        input_manifests = {
            name: self.require(kind, input_fingerprint).manifest_sha256
            for name, (kind, input_fingerprint) in spec.inputs.items()
        }
        return {
            "format": 1,
            "kind": spec.kind,
            "fingerprint": fingerprint,
            "spec_hash": spec.hash,
            "spec": spec.to_json(),
            "input_manifests": input_manifests,
            "summary": plain_json(summary),
            "seeds": spec.seeds(),
            "begun": draft.begun,
            "created": _now(),
            "sequence": self._next_sequence(spec),
            "code": provenance.code(),
            "packages": provenance.packages(),
            "hardware": provenance.hardware(),
            "run": {"user": provenance.user_name(), **plain_json(run_info)},
        }

    def _next_sequence(self, spec: Spec) -> int:
        return 1 + sum(1 for _ in self._spec_folder(spec.kind, spec.hash).glob("*"))

    def _folders_of_content(self, kind: str, digits: str) -> list[Path]:
        """Return the folders whose name begins with the first digits of a fingerprint."""
        return list((self.artifacts / kind).glob(f"*/{digits}*"))

    def _older_folders(self, kind: str) -> Mapping[str, Sequence[Path]]:
        """Return the folders of artifacts whose specs name retired versions, by the hash of their present specs."""
        folders: dict[str, list[Path]] = defaultdict(list)
        for folder in (self.artifacts / kind).glob("*/*") if kind in RETIRED_VERSIONS else ():
            with contextlib.suppress(BrokenArtifact):
                artifact = Artifact(folder, read_manifest(folder))
                if artifact.present_spec_hash != artifact.spec_hash:
                    folders[artifact.present_spec_hash].append(folder)
        return folders

    def _spec_folder(self, kind: str, spec_hash: str) -> Path:
        return self.artifacts / kind / spec_hash[:NAME_DIGITS]


def _lock_name(spec: Spec) -> str:
    """Return the name of the spec's lock. The names of its drafts begin with it (garbage.py)."""
    return f"{spec.kind}-{spec.hash[:NAME_DIGITS]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _creation_order(artifact: Artifact) -> tuple[int, str]:
    """Return (sequence, created). The sequence comes first because it is correct even if the clock was set back."""
    return artifact.manifest["sequence"], artifact.manifest["created"]
