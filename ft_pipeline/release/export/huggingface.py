"""Export a model from the store to a folder outside it: a plain Hugging Face model, or a PEFT adapter."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.models.base_model import ORIGIN_FILE
from ft_pipeline.models.generation_config import generation_config_as_scored, load_tokenizer_lazily
from ft_pipeline.release.card.model_lineage import hub_id
from ft_pipeline.release.export.target_folder import (
    ReportBytes,
    copy_file,
    draft_folder,
    require_free_folder,
    write_json,
)
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.training.objectives.targets import HELD_OUT

CARD_NAME, GENERATION_CONFIG = "README.md", "generation_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
BASE_FOLDER = "base"
"""The subfolder with an adapter's base model, if that model is not on the hub. adapter_config.json names it without the
path before it, so that the folder can be moved, and given to others."""
_OTHER_FILES = ("manifest.json", "metrics.jsonl", HELD_OUT, "merge.json", ORIGIN_FILE, GENERATION_CONFIG)
"""Files of an artifact that are not copied: the store's own, and the generation config, see write_export."""
_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "config.json")
"""Files of a base model that an adapter folder does not need."""


@dataclass(frozen=True)
class ExportPlan:
    """The files that an export would write."""

    model: ModelReference
    """Of kind `merged` (a plain Hugging Face folder) or `adapter` (a PEFT folder)."""
    target: Path
    files: Mapping[str, Path]
    """By name in the target: the file in the store that is copied there."""
    text_side: Path
    """The model folder in the store whose tokenizer and generation config apply."""
    base_entries: Mapping[str, Any]
    """The entries of adapter_config.json that name the base model; empty for a whole model."""

    @property
    def base_model(self) -> str | None:
        """Where an adapter's base model is: a hub id, or the path of the folder; None for a whole model."""
        name = self.base_entries.get("base_model_name_or_path")
        return str(self.target / BASE_FOLDER) if name == BASE_FOLDER else name

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def plan_export(store: ArtifactStore, model: ModelReference, target: Path, *, merged: bool) -> ExportPlan:
    """Return what to write to `target`. Raises UserError if the model cannot be exported or the folder is not empty.

    merged: write the whole model, not its adapter. A model that was trained with `full`, a row NAME/merged and a merged
    champion are always written whole.
    """
    _require_exportable(model, merged)
    target = require_free_folder(target)
    if merged or model.serving["technique"] == "full" or (model.kind == "merged" and model.name != model.experiment):
        merged_model = store.require("merged_model", model.fingerprints["merged_model"])
        return ExportPlan(model.as_kind("merged"), target, model_files(merged_model), merged_model.path, {})
    base = store.require("base_model", model.fingerprints["base_model"])
    adapter = store.require("adapter", model.fingerprints["adapter"])
    files = {name: adapter.path / name for name in ADAPTER_FILES}
    files |= {name: path for name, path in model_files(base).items() if not _is_weight(name)}
    if (public := hub_id(base)) is not None:
        base_entries = {"base_model_name_or_path": public, "revision": base.spec["config"]["revision"]}
    else:
        files |= {f"{BASE_FOLDER}/{name}": path for name, path in model_files(base).items()}
        base_entries = {"base_model_name_or_path": BASE_FOLDER, "revision": None}
    return ExportPlan(model.as_kind("adapter"), target, files, base.path, base_entries)


def write_export(
    plan: ExportPlan, describe: Callable[[Path], None], report_bytes: ReportBytes = lambda count: None
) -> None:
    """Write the folder, completely or not at all, with a generation config that decodes as the model was scored.

    describe: called with the folder when the model's own files are written; writes the card and what else is disclosed.
    Raises UserError if the disk is full or not writable.
    """
    decoding = generation_config_as_scored(plan.text_side, load_tokenizer_lazily(plan.text_side))
    with translate_write_errors(), draft_folder(plan.target) as folder:
        for name, path in plan.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            copy_file(path, folder / name, report_bytes)
        for model_folder in (folder, folder / BASE_FOLDER):
            if model_folder.is_dir():
                write_json(model_folder / GENERATION_CONFIG, decoding)
        if plan.base_entries:
            _set_base_model(folder / ADAPTER_FILES[1], plan.base_entries)
        describe(folder)


def _require_exportable(model: ModelReference, merged: bool) -> None:
    """Raise UserError if the model was not trained, or if it cannot be merged but `merged` asks for that."""
    if model.kind == "classifier":
        raise UserError(
            f"{model.name!r} is a classifier, which is no Hugging Face model. Run `ft export {model.name} DIR`."
        )
    if model.kind not in TUNED:
        description = "the base model" + (" with a prompt" if model.kind == "prompt" else "")
        raise UserError(
            f"{model.name!r} is {description}, so there is no trained model to export. Run `ft serve {model.name}` to "
            "use it as it was scored."
        )
    if merged and model.serving["technique"] == "prompt_tuning":
        raise UserError(
            f"{model.name!r} is a learned prompt, which cannot be merged into weights. Export it without --merged."
        )


def model_files(artifact: Artifact) -> dict[str, Path]:
    """Return the files of an artifact that belong to the model, by name."""
    return {
        path.name: path for path in sorted(artifact.path.iterdir()) if path.is_file() and path.name not in _OTHER_FILES
    }


def _is_weight(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WEIGHT_PATTERNS)


def _set_base_model(path: Path, base_entries: Mapping[str, Any]) -> None:
    """Write the location of the base model to adapter_config.json, which in the store contains its fingerprint."""
    config = {**json.loads(path.read_text(encoding="utf-8")), **base_entries}
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = config["base_model_name_or_path"]
    write_json(path, config)
