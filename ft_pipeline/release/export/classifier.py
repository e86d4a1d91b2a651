"""Export a classifier: its arrays and vocabularies, with a card. Nothing in the folder is code."""

from pathlib import Path

from ft_pipeline.decide.documents import decision_about
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.evaluation.rivals.word_model import ARRAYS, TEXTS
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.disclosure.folder import PUBLIC_KEY, seal
from ft_pipeline.release.export.huggingface import CARD_NAME
from ft_pipeline.release.export.target_folder import copy_file, draft_folder, require_free_folder
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.signing import find_key


def export_classifier(store: ArtifactStore, model: ModelReference, target: Path, settings: ProjectSettings) -> Path:
    """Write the folder, completely or not at all, and return its path. It is signed if the project has a key.

    UserError if the folder is not empty, or cannot be written.
    """
    target, key = require_free_folder(target), find_key(store.root)
    artifact = store.require(WORD_MODEL, model.fingerprints[WORD_MODEL])
    comparison = current_artifact(store, "comparison")
    decided, teacher_terms = decision_about(store, comparison), settings.teacher.terms
    facts = card_facts(store, model, comparison, task=settings.task, teacher_terms=teacher_terms, decided=decided)
    with translate_write_errors(), draft_folder(target) as folder:
        for name in (ARRAYS, TEXTS):
            copy_file(artifact.path / name, folder / name)
        (folder / CARD_NAME).write_text(render_card(facts), encoding="utf-8")
        if key is not None:
            (folder / PUBLIC_KEY).write_bytes(key.public_pem)
        seal(folder, key)
    return target
