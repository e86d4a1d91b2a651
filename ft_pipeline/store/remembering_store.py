"""A store whose artifacts are verified once: for a plan, which opens the same artifacts for each experiment."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import NAME_DIGITS, Spec

logger = logging.getLogger(__name__)


class RememberingStore(ArtifactStore):
    """Remembers what `find` and `open` returned, also that the store has no such artifact. Never build with it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._found: dict[tuple[str, str], Artifact | None] = {}
        self._opened: dict[tuple[str, str, str | None], Artifact | None] = {}
        self._folders: dict[str, dict[str, list[Path]]] = {}
        """By kind, and by the digits of the fingerprint that the name of a folder begins with."""
        self._older: dict[str, Mapping[str, Sequence[Path]]] = {}

    def find(self, spec: Spec, log: Callable[[str], None] = logger.warning) -> Artifact | None:
        key = spec.kind, spec.hash
        if key not in self._found:
            self._found[key] = super().find(spec, log)
        return self._found[key]

    def open(
        self,
        kind: str,
        fingerprint: str,
        log: Callable[[str], None] = logger.warning,
        manifest_sha256: str | None = None,
    ) -> Artifact | None:
        key = kind, fingerprint, manifest_sha256
        if key not in self._opened:
            self._opened[key] = super().open(kind, fingerprint, log, manifest_sha256)
        return self._opened[key]

    def _folders_of_content(self, kind: str, digits: str) -> list[Path]:
        if kind not in self._folders:
            folders: dict[str, list[Path]] = defaultdict(list)
            for folder in (self.artifacts / kind).glob("*/*"):
                folders[folder.name[:NAME_DIGITS]].append(folder)
            self._folders[kind] = folders
        return self._folders[kind].get(digits, [])

    def _older_folders(self, kind: str) -> Mapping[str, Sequence[Path]]:
        if kind not in self._older:
            self._older[kind] = super()._older_folders(kind)
        return self._older[kind]
