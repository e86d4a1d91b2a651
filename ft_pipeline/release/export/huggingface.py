"""Export a model of the store as a separate folder: a plain Hugging Face model, or a PEFT adapter."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.base_model import ORIGIN_FILE
from ft_pipeline.models.generation_config import generation_config_as_scored, load_tokenizer_lazily
from ft_pipeline.release.card.model_lineage import hub_id
from ft_pipeline.release.model_lookup import TUNED, ModelReference
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import translate_write_errors

CARD, GENERATION = "README.md", "generation_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
BASE = "base"
"""The folder of an adapter's base model, if it is not on the hub."""
_NOT_OF_THE_MODEL = ("manifest.json", "metrics.jsonl", "merge.json", ORIGIN_FILE, GENERATION)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")
_CHUNK = 1 << 23
Advance = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


@dataclass(frozen=True)
class Plan:
    """The files that an export would write."""

    model: ModelReference
    """Of kind `merged` (a plain Hugging Face folder) or `adapter` (a PEFT folder)."""
    target: Path
    files: Mapping[str, Path]
    """By name in the target: the file of the store that is copied there."""
    text_side: Path
    """The model folder of the store whose tokenizer and settings apply."""
    base: Mapping[str, Any]
    """The base model's entries in an adapter's config; empty for a whole model."""

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def plan_export(store: ArtifactStore, model: ModelReference, target: Path, *, merged: bool) -> Plan:
    """Return what to write to `target`. Raises UserError if the model cannot be exported or the folder is taken.

    merged: write the whole model, not its adapter. `full`, a row NAME/merged and a merged champion are always whole.
    """
    _refuse_unwritable(model, merged)
    target = _free(target)
    if merged or model.served["technique"] == "full" or (model.kind == "merged" and model.name != model.experiment):
        whole = store.require("merged_model", model.parts["merged_model"])
        return Plan(model.as_kind("merged"), target, model_files(whole), whole.path, {})
    base = store.require("base_model", model.parts["base_model"])
    adapter = store.require("adapter", model.parts["adapter"])
    files = {name: adapter.path / name for name in ADAPTER_FILES}
    files |= {name: path for name, path in model_files(base).items() if not _is_weight(name)}
    if (public := hub_id(base)) is not None:
        named = {"base_model_name_or_path": public, "revision": base.spec["config"]["revision"]}
    else:
        files |= {f"{BASE}/{name}": path for name, path in model_files(base).items()}
        named = {"base_model_name_or_path": str(target / BASE), "revision": None}
    return Plan(model.as_kind("adapter"), target, files, base.path, named)


def write_export(plan: Plan, card: str, advance: Advance = lambda count: None) -> None:
    """Write the folder, completely or not at all. Raises UserError if the disk is full or not writable."""
    decoding = generation_config_as_scored(plan.text_side, load_tokenizer_lazily(plan.text_side))
    with translate_write_errors(), _appearing(plan.target) as folder:
        for name, path in plan.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _copy(path, folder / name, advance)
        for place in (folder, folder / BASE):
            if place.is_dir():
                _write_json(place / GENERATION, decoding)
        if plan.base:
            _name_the_base(folder / ADAPTER_FILES[1], plan.base)
        (folder / CARD).write_text(card, encoding="utf-8")


def _refuse_unwritable(model: ModelReference, merged: bool) -> None:
    if model.kind not in TUNED:
        what = "the base model" + (" with a prompt" if model.kind == "prompt" else "")
        raise UserError(
            f"{model.name!r} is {what}, so there is no trained model to export. Run `ft serve {model.name}` to use it "
            "as it was scored."
        )
    if merged and model.served["technique"] == "prompt_tuning":
        raise UserError(
            f"{model.name!r} is a learned prompt, which cannot be merged into weights. Export it without --merged."
        )


def _free(target: Path) -> Path:
    """Return the folder as an absolute path. Raises UserError if it is a file or not empty."""
    target = target.expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file. Choose a new or empty folder.")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"{target} is not empty. Choose a new or empty folder.")
    return target


def model_files(artifact: Artifact) -> dict[str, Path]:
    """Return the files of an artifact that belong to the model, by name."""
    return {
        path.name: path
        for path in sorted(artifact.path.iterdir())
        if path.is_file() and path.name not in _NOT_OF_THE_MODEL
    }


def _is_weight(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WEIGHTS)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Yield a draft folder next to `target`. It is renamed to `target` on success and removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o777 & ~_umask())
        draft.rename(target)  # over an empty folder too
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _copy(source: Path, target: Path, advance: Advance) -> None:
    """Copy the file. With a hard link, an edit of the export would damage the store."""
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK):
            writing.write(chunk)
            advance(len(chunk))


def _name_the_base(path: Path, base: Mapping[str, Any]) -> None:
    """Write the location of the base model to adapter_config.json. The store identifies it by its fingerprint."""
    config = {**json.loads(path.read_text(encoding="utf-8")), **base}
    if config.get("tokenizer_name_or_path"):
        config["tokenizer_name_or_path"] = config["base_model_name_or_path"]
    _write_json(path, config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
