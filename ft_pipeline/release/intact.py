"""Checks of a model before it leaves the store: what was changed is not exported, served or pushed."""

from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import ledger
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.manifest import BrokenArtifact
from ft_pipeline.store.signature_check import check_signatures

_ROLES = ("base_model", "adapter", "merged_model")
_ADVICE = "Run `ft audit --verify` to see what was changed."


def require_intact(store: ArtifactStore, model: ModelReference) -> None:
    """Hash the model's files again, and compare the store with its signed journal.

    All manifests, pointers and records are compared: they say which model a name means, and with which prompt it goes
    out. Raises UserError for the first difference. The cache of hashes, which anybody who can write to the store can
    edit, is not used. In a store that is not signed, the files are compared with the manifests only.
    """
    require_signed(store)
    if model.record is not None and ledger(store.root).next_number() != model.record.sequence + 1:
        raise UserError(f"The champion is not record {model.record.sequence} any more. Run the command again.")
    for role in _ROLES:
        if role in model.fingerprints:
            require_intact_artifact(store, store.require(role, model.fingerprints[role]))
    for reference in {model.conversations, *model.prompt_sources.values()}:
        require_intact_artifact(store, store.require(*reference))


def require_signed(store: ArtifactStore) -> None:
    """Raise UserError if the store is signed, and is not as it was signed.

    Dates do not count: a clock that was ahead and was corrected must not block a store for good. `ft audit` names them.
    """
    check = check_signatures(store.root)
    faults = [fault for fault in check.faults if fault.code != "back_dated"]
    if check.is_signed and faults:
        raise UserError(f"The store is not as it was signed: {faults[0]}. {_ADVICE}")


def require_intact_artifact(store: ArtifactStore, artifact: Artifact) -> None:
    """Hash the files of an artifact again. Raises UserError if one was changed."""
    try:
        store.verify(artifact.path, thorough=True)
    except BrokenArtifact as error:
        raise UserError(f"{artifact.kind} {artifact.fingerprint[:12]} was changed: {error}. {_ADVICE}") from error
