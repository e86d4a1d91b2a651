"""A store whose artifacts are verified once: for a plan, which opens the same artifacts for each experiment."""

import logging
from collections.abc import Callable
from pathlib import Path

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec

logger = logging.getLogger(__name__)


class RememberingStore(ArtifactStore):
    """Remembers what `find` and `open` returned, also that the store has no such artifact. Never build with it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._found: dict[tuple[str, str], Artifact | None] = {}
        self._opened: dict[tuple[str, str, str | None], Artifact | None] = {}

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
