"""Checks of a model before it leaves the store: what was changed is not exported, served or pushed."""

from ft_pipeline.errors import UserError
from ft_pipeline.release.champion import ledger
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store import journal_head
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.journal_lines import read_journal
from ft_pipeline.store.manifest import BrokenArtifact
from ft_pipeline.store.signed_state import SignedState, manifest_path, state_of
from ft_pipeline.store.signing import read_public_key

_ROLES = ("base_model", "adapter", "merged_model")
_ADVICE = "Run `ft audit --verify` to see what was changed."


def require_intact(store: ArtifactStore, model: ModelReference) -> None:
    """Hash the model's files again, and compare its manifests and its champion record with the signed journal.

    Raises UserError for the first difference. The cache of hashes, which anybody who can write to the store can edit,
    is not used. In a store that is not signed, the files are compared with the manifests only.
    """
    state = _signed_state(store)
    if state is not None and model.record is not None:
        _require_signed_record(store, state, model.record.sequence)
    for role in _ROLES:
        if role in model.fingerprints:
            _require_intact(store, state, store.require(role, model.fingerprints[role]))


def require_intact_artifact(store: ArtifactStore, artifact: Artifact) -> None:
    """Do the same for one artifact, such as the GGUF files of a model."""
    _require_intact(store, _signed_state(store), artifact)


def _signed_state(store: ArtifactStore) -> SignedState | None:
    """Return the state that the journal describes; None if the store is not signed. UserError if it is damaged."""
    content = read_journal(store.root)
    if read_public_key(store.root) is None and not content.entries and journal_head.remembered(store.root) is None:
        return None
    if content.faults or not content.entries:
        where = f"line {content.faults[0].number} {content.faults[0].message}" if content.faults else "it is missing"
        raise UserError(f"The signed journal of this store is damaged: {where}. {_ADVICE}")
    last = content.entries[-1]
    journal_head.require_not_behind(store.root, journal_head.Head(content.keys[-1].key_id, last.number, last.sha256))
    return state_of(content)


def _require_signed_record(store: ArtifactStore, state: SignedState, number: int) -> None:
    """Raise UserError if the champion's record is not the last one that was signed, as it was signed."""
    path = ledger(store.root).path(number)
    last = max((name for name in state.files if name.startswith("champion/")), default=None)
    name = path.relative_to(store.root).as_posix()
    if last is not None and name < last:
        raise UserError(f"The last champion record, {last}, was removed. {_ADVICE}")
    if not state.is_signed(name, sha256_of_file(path)):
        raise UserError(f"The champion record {name} is not as it was signed. {_ADVICE}")


def _require_intact(store: ArtifactStore, state: SignedState | None, artifact: Artifact) -> None:
    try:
        store.verify(artifact.path, thorough=True)
    except BrokenArtifact as error:
        raise UserError(f"{artifact.kind} {artifact.fingerprint[:12]} was changed: {error}. {_ADVICE}") from error
    if state is not None and not state.is_signed(manifest_path(store.root, artifact.path), artifact.manifest_sha256):
        raise UserError(f"{artifact.kind} {artifact.fingerprint[:12]} is not as it was signed. {_ADVICE}")
