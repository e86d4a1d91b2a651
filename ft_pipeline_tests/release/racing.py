"""What the processes of a race run; imports nothing heavy, since each of them loads this module."""

import multiprocessing
from pathlib import Path

from ft_pipeline.release.manual_promotion import promote
from ft_pipeline.store.artifacts import ArtifactStore


def promote_at_once(root: Path, fingerprint: str, name: str, start: "multiprocessing.synchronize.Barrier") -> None:
    """Force the promotion of `name` as soon as all processes are ready."""
    store = ArtifactStore(root)
    comparison = store.require("comparison", fingerprint)
    start.wait()
    promote(store, comparison, name, read={}, force=True, reason=f"{name} it is", two_people=False)
