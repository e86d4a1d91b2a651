"""`ft gc`: decides what a project keeps, and removes nothing while a run is under way."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.champion import history
from ft_pipeline.settings.sweep import sweep_owner
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.garbage import Garbage, find_garbage, remove_garbage
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.spec import ArtifactReference


def collect(project: Project, *, dry_run: bool) -> Garbage:
    """Remove what is older than `retention.keep_days` and not needed by anything that is kept; return what it is.

    dry_run: only find it.
    Kept: the latest artifact of every asset, every champion there ever was, and everything these were built from.
    Raises UserError while a run is under way, unless `dry_run` is set.
    """
    store = ArtifactStore(project.store)
    with sweeping(project.store).hold():
        if not dry_run:
            _refuse_while_running(project.store)
        before = datetime.now(UTC) - timedelta(days=project.settings.retention.keep_days)
        forgotten = _forgotten(project, before)
        garbage = find_garbage(store, _roots(project, forgotten), before)
        if not dry_run:
            for pointer in forgotten:
                AssetPointers(store.root).remove(pointer.asset, pointer.partition)
            remove_garbage(store, garbage)
        return garbage


def sweeping(store: Path) -> FileLock:
    """The lock held while garbage is searched and removed. A run waits for it before its first step."""
    return FileLock(store / "locks" / "gc", "ft gc")


def _refuse_while_running(store: Path) -> None:
    for path in sorted((store / "locks" / "runs").glob("*")):
        lock = FileLock(path, "ft gc")
        if not lock.try_acquire():
            raise UserError(f"Run {path.name[:8]} is under way. Run `ft gc` again when it has ended.")
        lock.release()


def _forgotten(project: Project, before: datetime) -> list[Pointer]:
    """Pointers of experiments whose YAML is gone, or no longer defines them, and that have not run since `before`."""
    names = set(project.experiment_names())
    return [
        pointer
        for pointer in AssetPointers(project.store).all()
        if pointer.partition and _gone(project, pointer.partition, names)
        if datetime.fromisoformat(pointer.when) < before
    ]


def _gone(project: Project, name: str, names: set[str]) -> bool:
    """Whether the experiment no longer exists. A sweep member is kept while its experiment's YAML is only broken."""
    if name in names or sweep_owner(name) not in names:
        return name not in names
    try:
        project.experiment(sweep_owner(name))
    except UserError:
        return False
    return True


def _roots(project: Project, forgotten: list[Pointer]) -> set[ArtifactReference]:
    pointers = [pointer for pointer in AssetPointers(project.store).all() if pointer not in forgotten]
    roots = {(pointer.kind, pointer.fingerprint) for pointer in pointers}
    for record in history(project.store):
        roots |= set(record.fingerprints.items())
        if compared := record.evidence.get("comparison"):
            roots.add(("comparison", compared))
    return roots
