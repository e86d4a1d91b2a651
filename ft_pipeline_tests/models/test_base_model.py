"""Base models from a folder, from the hub and from the wheel; nothing that could run code is loaded."""

import json
import shutil

import gguf
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models import base_model
from ft_pipeline.models.decoding.generate import generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.project import serving
from ft_pipeline.store import stat_cache
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.stat_cache import StatCache
from ft_pipeline_tests.models.material import convert


@pytest.fixture
def folder(tmp_path, tiny_base):
    return shutil.copytree(tiny_base, tmp_path / "model")


def test_a_folder_is_copied_without_its_python_files(tmp_path, folder):
    (folder / "notes.py").write_text("raise SystemExit")
    out, summary = convert(tmp_path, folder)
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not (out / "notes.py").exists()
    assert summary["params"] == sum(parameter.numel() for parameter in load_model(out, "cpu").parameters())
    assert summary["dtype"] == "BF16" and len(summary["template_sha256"]) == 64 and summary["source"] == "model"


@pytest.mark.parametrize("found", ["variable", "served"])
def test_a_relative_folder_is_one_of_the_project(tmp_path, folder, monkeypatch, found):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(folder, project / "models" / "tiny")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if found == "variable":
        monkeypatch.setenv("FT_PROJECT", str(project))
    with serving(project if found == "served" else None):
        for model in ("./models/tiny", "models/tiny"):
            identity = base_model.identify_model(model, None, StatCache(tmp_path / "cache"))
            assert identity["model"] == model and identity["content"] is not None


def test_a_relative_folder_is_else_one_of_the_current_folder(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("FT_PROJECT", str(tmp_path / "project"))
    monkeypatch.chdir(folder.parent)
    assert base_model.load_config(f"./{folder.name}", None)["model_type"]


def test_pickled_weights_are_refused(tmp_path, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*save_pretrained"):
        convert(tmp_path, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.X"}}, "never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized"),
    ],
)
def test_models_with_own_code_or_quantized_weights_are_refused(tmp_path, folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        convert(tmp_path, folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        convert(tmp_path, folder)


@pytest.mark.parametrize("model", ["./missing", "/missing/model", "a b", "x/y/z"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path, model):
    with pytest.raises(UserError, match="is neither a folder nor a hub id"):
        convert(tmp_path, model)


def test_a_hub_model_without_a_network_raises_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="could not be fetched from the hub"):
        convert(tmp_path, "someone/some-model", "main")


def test_a_folder_is_identified_by_its_content_and_read_once(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(stat_cache, "RACY_NANOSECONDS", 0)  # the folder was written just now
    read = []

    class Counting(StatCache):
        def hashes(self, folder, names, hash_file=sha256_of_file, failed=None):
            return super().hashes(folder, names, lambda path: read.append(path.name) or hash_file(path), failed)

    def identify():
        return base_model.identify_model(str(folder), None, Counting(tmp_path / "cache"))

    before = identify()
    assert "model.safetensors" in read
    assert identify() == before and len(read) == len(set(read)), "each file is hashed once"
    read.clear()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert identify() != before and read == ["chat_template.jinja"]


@pytest.mark.long
@pytest.mark.slow
def test_the_embedded_model_converts_and_answers(tmp_path):
    out, summary = convert(tmp_path, "embedded")
    assert summary["params"] == 134_515_008 and summary["dtype"] == "BF16"
    assert isinstance(gguf.GGUFReader, type), "what a conversion replaces for a while is as before"
    model, tokenizer = load_model(out, "cpu"), load_tokenizer(out)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    (answer,) = generate(model, tokenizer, [prompt], max_new_tokens=16, batch_size=1)
    assert "Paris" in answer.text and answer.finish_reason == "stop"
