"""`ft gc`: decides what a project keeps, and removes nothing while a run is under way."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.champion import history
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.garbage import Garbage, find_garbage, remove_garbage
from ft_pipeline.store.locks import FileLock, project_lock
from ft_pipeline.store.spec import ArtifactReference

SEARCH_LOCK = "search-"
"""How the names of the locks begin that searches hold (search/sweep.py)."""


def collect_garbage(project: Project, *, dry_run: bool) -> Garbage:
    """Remove everything that is older than `retention.keep_days` and not kept, and return it.

    dry_run: only return it.
    Kept are the latest artifact of every asset, every champion so far with the comparison that decided on it, and
    everything that these were built from. The assets of an experiment that no longer exists are not kept.
    Raises UserError while a run is under way, unless `dry_run` is set.
    """
    store = ArtifactStore(project.store)
    with garbage_lock(project.store).hold(), project_lock(project.store).hold(shared=True):
        if not dry_run:
            _refuse_while_running(project.store)
        cutoff = datetime.now(UTC) - timedelta(days=project.settings.retention.keep_days)
        expired = _expired_pointers(project, cutoff)
        garbage = find_garbage(store, _roots(project, expired), cutoff)
        if not dry_run:
            for pointer in expired:
                AssetPointers(store.root).remove(pointer.asset, pointer.partition)
            remove_garbage(store, garbage)
        return garbage


def garbage_lock(store: Path) -> FileLock:
    """Return the lock that is held while garbage is searched and removed. A run waits for it before its first step."""
    return FileLock(store / "locks" / "gc", "ft gc")


def _refuse_while_running(store: Path) -> None:
    for path in sorted((store / "locks" / "runs").glob("*")):
        lock = FileLock(path, "ft gc")
        if not lock.try_acquire():
            raise UserError(f"Run {path.name[:8]} is under way. Run `ft gc` again when it has ended.")
        lock.release()
    for path in sorted((store / "locks").glob(f"{SEARCH_LOCK}*")):
        lock = FileLock(path, "ft gc")
        if not lock.try_acquire():
            raise UserError("A search (`ft sweep`) is under way. Run `ft gc` again when it has ended.")
        lock.release()


def _expired_pointers(project: Project, cutoff: datetime) -> list[Pointer]:
    """Pointers of experiments that no longer exist, and whose asset was last materialized before `cutoff`."""
    return [
        pointer
        for pointer in AssetPointers(project.store).all()
        if pointer.partition and not project.defines(pointer.partition)
        if datetime.fromisoformat(pointer.when) < cutoff
    ]


def _roots(project: Project, expired: list[Pointer]) -> set[ArtifactReference]:
    """The artifacts to keep, without those that they were built from."""
    pointers = [pointer for pointer in AssetPointers(project.store).all() if pointer not in expired]
    roots = {(pointer.kind, pointer.fingerprint) for pointer in pointers}
    for record in history(project.store):
        roots |= set(record.fingerprints.items())
        if comparison := record.evidence.get("comparison"):
            roots.add(("comparison", comparison))
    return roots
