"""What every export of a model promises: it names and hashes its files, reads back as the model in the store, and holds
no path of this machine. Of conversations, see test_formats.py and exchange/test_export_data.py."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.cli.export import ExportFormat
from ft_pipeline.errors import UserError
from ft_pipeline.gguf import making
from ft_pipeline.gguf.scored_files import ScoredFiles
from ft_pipeline.models.load import load_model
from ft_pipeline.project import Project
from ft_pipeline.release.disclosure.folder import SIGNATURES, SUMS
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.end_to_end.project import current
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.store.test_old_store import PACKED
from ft_pipeline_tests.tiny_gguf import write_gguf

IDS = [3, 40, 41, 270, 300, 12, 55, 90, 301, 44]
COST = {"value": 0.001, "low": 0.0, "high": 0.002}
MEASURES = ("loss_increase", "kl", "agreement", "identical")


class Exported(NamedTuple):
    """An export, and what it came from."""

    document: dict[str, Any]
    folder: Path
    root: Path


Logits = Callable[[Exported], torch.Tensor]


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    """The model's prediction after each of IDS."""
    logits: torch.Tensor = model.eval()(input_ids=torch.tensor([IDS])).logits[0]
    return logits


def adapter_on_its_base(export: Exported) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(export.folder / "base", dtype=torch.float32)
    return logits_of(PeftModel.from_pretrained(base, str(export.folder), autocast_adapter_dtype=False))


def whole_model(export: Exported) -> torch.Tensor:
    return logits_of(AutoModelForCausalLM.from_pretrained(export.folder, dtype=torch.float32))


def by_llama_cpp(export: Exported) -> torch.Tensor:
    pytest.importorskip("llama_cpp_py_sync")
    from ft_pipeline.gguf.evaluated_model import EvaluatedModel

    (file,) = export.folder.glob("*.gguf")
    with EvaluatedModel(file, 64, exact=True) as model:
        return torch.tensor(model.logits(IDS))


def stored(export: Exported) -> torch.Tensor:
    """The model in the store, of which this is an export."""
    experiment = export.document["name"].partition("/")[0]
    if export.document["kind"] != "adapter":
        return logits_of(load_model(current(export.root, "merged_model", experiment).path, "cpu", dtype=torch.float32))
    base, adapter = (current(export.root, kind, experiment).path for kind in ("base_model", "adapter"))
    return logits_of(load_model(base, "cpu", adapter=adapter, dtype=torch.float32))


class Material(NamedTuple):
    """How an export is asked for, and how it is read."""

    options: tuple[str, ...]
    files: set[str]
    """Files that it must have."""
    logits: Logits
    tolerance: float = 0.0


HUB_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
EXPORTS = {
    "an adapter": Material(("lora",), {"adapter_config.json", "adapter_model.safetensors"}, adapter_on_its_base),
    "a merged model": Material(("lora", "--merged"), HUB_FILES, whole_model),
    "a model trained whole": Material(("full",), HUB_FILES, whole_model),
    "gguf": Material(("lora", "--format", "gguf", "--quantize", "f32"), {"shop-f32.gguf"}, by_llama_cpp, 1e-3),
}
"""A new format adds a line."""
WITHOUT_MODEL = {"evidence"}
"""Formats of what is no model, with tests of their own."""


def make_gguf(project: Project, store: ArtifactStore, model: ModelReference, types: Sequence[str]) -> ScoredFiles:
    """Commit the GGUF file of a model, and scores: making them takes a run (gguf/test_export.py)."""
    merged = current(project.root, "merged_model", "lora")
    draft = store.begin(Spec("gguf", {"merged_model": merged.reference}, {"name": "shop", "types": [*types]}))
    file = write_gguf(merged.path, draft.out / "shop-f32.gguf")
    index = {"name": "shop", "files": {"f32": {"file": file.name, "note": "All of it."}}}
    (draft.out / "gguf.json").write_text(json.dumps(index), encoding="utf-8")
    files = store.commit(draft, {})
    inputs = {"merged_model": merged.reference, "gguf": files.reference}
    draft = store.begin(Spec("gguf_scores", inputs, {"types": [*types]}))
    (draft.out / "scores.json").write_text("{}", encoding="utf-8")
    costs = {"f32": dict.fromkeys(MEASURES, COST)}
    summary = {
        "costs": costs,
        "broken_rails": {"f32": []},
        "notes": [],
        "conversion": {},
        "rows": [{"max_new_tokens": 8}],
    }
    return ScoredFiles(files, store.commit(draft, summary))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project."""
    return unpack(PACKED, tmp_path_factory.mktemp("old") / "shop")


def write_export(root: Path, name: str, folder: Path) -> Exported:
    """`ft export` to a folder."""
    model, *options = EXPORTS[name].options
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("FT_PROJECT", "DAGSTER_HOME"):
            patch.setenv(variable, "")  # so that what the command sets is undone
        patch.setattr(making, "is_current", lambda *_: False)
        patch.setattr(making, "make_beside_graph", make_gguf)
        command = ["export", model, str(folder), "--project", str(root), "--json", *options]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return Exported(json.loads(done.stdout), folder, root)


@pytest.fixture(scope="module", params=EXPORTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def export(name: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return write_export(root, name, tmp_path_factory.mktemp("export") / "model")


def test_every_format_has_material() -> None:
    asked = {
        material.options[material.options.index("--format") + 1]
        for material in EXPORTS.values()
        if "--format" in material.options
    }
    assert asked | {ExportFormat.HUGGINGFACE, *WITHOUT_MODEL} == set(ExportFormat), (
        "add it to EXPORTS in contracts/test_exports.py"
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_files_are_named_and_hashed(name: str, export: Exported) -> None:
    files = files_in(export.folder)
    assert EXPORTS[name].files | {"README.md", "bom.cdx.json", "provenance.json", SUMS} <= set(files)
    assert sorted(files) == sorted(export.document["files"]) and not {"manifest.json", "metrics.jsonl"} & set(files)
    sums = dict(line.split("  ", 1)[::-1] for line in files[SUMS].decode().splitlines())
    assert set(sums) == set(files) - {SUMS} - SIGNATURES
    assert all(hashlib.sha256(files[file]).hexdigest() == expected for file, expected in sums.items())
    card = files["README.md"].decode()
    weights = [file for file in files if file.endswith((".safetensors", ".gguf"))]
    assert weights and all(file in card and sums[file] in card for file in weights)


def test_it_holds_no_path_of_this_machine(export: Exported) -> None:
    for file, content in files_in(export.folder).items():
        for path in (export.root, export.folder, Path.home()):
            assert f"{path}/".encode() not in content and f'"{path}"'.encode() not in content, file


def test_it_reads_back_as_the_model_in_the_store(name: str, export: Exported) -> None:
    material = EXPORTS[name]
    torch.testing.assert_close(material.logits(export), stored(export), atol=material.tolerance, rtol=0)
    if material.logits is not by_llama_cpp:
        tokenizer = AutoTokenizer.from_pretrained(export.folder)
        base = current(export.root, "base_model", export.document["name"].partition("/")[0]).path
        assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    config = json.loads((export.folder / "generation_config.json").read_text(encoding="utf-8"))
    assert config["do_sample"] is False and config["eos_token_id"]


def test_the_same_model_gives_the_same_files(name: str, export: Exported, tmp_path: Path) -> None:
    again = write_export(export.root, name, tmp_path / "again")
    first, second = files_in(export.folder), files_in(again.folder)
    assert set(first) == set(second)
    assert [file for file in first if file not in SIGNATURES and first[file] != second[file]] == []


def test_a_folder_with_content_and_an_unknown_model_are_refused(name: str, export: Exported, tmp_path: Path) -> None:
    _, *options = EXPORTS[name].options
    before = files_in(export.folder)
    for model, folder, message in (("lora", export.folder, "is not empty"), ("nobody", tmp_path / "x", "'nobody'")):
        command = ["export", model, str(folder), "--project", str(export.root), *options]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=message):
            patch.setenv("FT_PROJECT", "")
            patch.setenv("DAGSTER_HOME", "")
            CliRunner().invoke(app, command, catch_exceptions=False)
    assert files_in(export.folder) == before and list(tmp_path.iterdir()) == []
