"""Checks of a model before it is released or leaves the store: what was changed is not promoted, exported, served or
pushed."""

from collections.abc import Iterable, Mapping

from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import RELEASED_ARTIFACTS, ledger
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.at_rest import check_at_rest, complete_if_possible, not_as_signed, require_as_signed
from ft_pipeline.store.manifest import MANIFEST_NAME, BrokenArtifact
from ft_pipeline.store.spec import ArtifactReference

_ROLES = ("base_model", "adapter", "merged_model", "word_model")


def require_intact(store: ArtifactStore, model: ModelReference) -> None:
    """Hash the model's files again, and compare the store with its signed journal.

    All manifests, pointers and records are compared: they say which model a name means, and with which prompt it goes
    out. Raises UserError for the first difference. The cache of hashes, which anybody who can write to the store can
    edit, is not used. In a store that is not signed, the files are compared with the manifests only.
    """
    require_as_signed(store.root)
    if model.record is not None and ledger(store.root).next_number() != model.record.sequence + 1:
        raise UserError(f"The champion is not record {model.record.sequence} any more. Run the command again.")
    for role in _ROLES:
        if role in model.fingerprints:
            require_intact_artifact(store, store.require(role, model.fingerprints[role]))
    for reference in {model.conversations, *model.prompt_sources.values()}:
        require_intact_artifact(store, store.require(*reference))


def require_intact_artifact(store: ArtifactStore, artifact: Artifact) -> None:
    """Hash the files of an artifact again. Raises UserError if one was changed."""
    try:
        store.verify(artifact.path, thorough=True)
    except BrokenArtifact as error:
        what = f"{artifact.kind} {artifact.fingerprint[:12]}"
        raise UserError(f"{what} was changed: {error}. Run `ft audit --verify` to see what was changed.") from error


def require_signed_evidence(store: ArtifactStore, evidence: Iterable[ArtifactReference]) -> None:
    """Raise UserError if what a release rests on is not as it was signed. See fault_in_evidence."""
    complete_if_possible(store.root)
    if fault := fault_in_evidence(store, evidence):
        raise UserError(not_as_signed("The evidence", fault))


def fault_in_evidence(store: ArtifactStore, evidence: Iterable[ArtifactReference]) -> str | None:
    """Return how some artifacts, anything that they were made from, or the records of a store differ from their
    signatures; None if nothing does, or if the store is not signed. Nothing is changed.

    Other artifacts do not count: a damaged one stays in the store when it is made again.
    """
    check = check_at_rest(store.root)
    if not check.is_signed:
        return None
    faults = {fault.where: fault for fault in check.changes}
    waiting, seen = list(evidence), set(check.state.removed)
    for reference in waiting:
        if reference in seen:
            continue
        seen.add(reference)
        artifact, label = store.open(*reference), f"{reference[0]} {reference[1][:12]}"
        if artifact is None:
            return f"{label} is missing or damaged"
        if fault := faults.get((artifact.path / MANIFEST_NAME).relative_to(store.root).as_posix()):
            return f"{label} {fault.message}"
        waiting += artifact.inputs.values()
    return next((str(fault) for where, fault in faults.items() if not where.startswith("artifacts/")), None)


def released_artifacts(fingerprints: Mapping[str, str], comparison: str | None = None) -> list[ArtifactReference]:
    """Return the artifacts of a released model, and the comparison that it was released on, if it is known."""
    parts = [(role, fingerprints[role]) for role in RELEASED_ARTIFACTS if role in fingerprints]
    return [*parts, ("comparison", comparison)] if comparison else parts
