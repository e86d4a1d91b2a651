"""Exported folders: loaded by transformers and PEFT alone, they are the models that were scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.models.compute_dtype import compute_dtype
from ft_pipeline.models.generation_config import generation_config_as_scored, load_tokenizer_lazily
from ft_pipeline.models.load import load_model
from ft_pipeline.release.export.huggingface import plan_export, write_export
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.release.trained import EVALUATION, ITEMS, SYSTEM_PROMPT, Trained

Export = Callable[..., dict[str, Any]]


@pytest.fixture
def export(trained: Trained, tmp_path: Path) -> Export:
    """`ft export NAME` to a new folder; its JSON document."""

    def run(name: str, *options: str, of: Trained = trained) -> dict[str, Any]:
        arguments = ["export", name, str(tmp_path / "out"), "--project", str(of.root), "--json", *options]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def probe(tokenizer: Any) -> torch.Tensor:
    return tokenizer("Where is my parcel?", return_tensors="pt")["input_ids"]


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


def scored_answers(trained: Trained, row: str) -> dict[str, str]:
    """What the row answered while it was scored, by its rendered prompt."""
    comparison = trained.store.all("comparison")[-1]
    samples = pq.read_table(comparison.path / "samples.parquet").to_pylist()
    return {sample["prompt"]: sample["answer"] for sample in samples if sample["name"] == row}


@pytest.mark.parametrize(
    ("name", "options", "row"), [("lora", ["--merged"], "lora/merged"), ("whole", [], "whole/merged")]
)
def test_an_exported_whole_model_gives_the_scored_answers(
    trained_here: Trained, export: Export, name: str, options: list[str], row: str
) -> None:
    document = export(name, *options, of=trained_here)
    folder = Path(document["path"])
    assert (document["name"], document["kind"], document["base_model"]) == (row, "merged", None)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(
        document["files"]
    )
    assert not {"manifest.json", "metrics.jsonl"} & set(document["files"])
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16  # whatever this machine computes in
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=compute_dtype("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = scored_answers(trained_here, row)
    assert len(answers) == ITEMS
    for prompt, answer in answers.items():
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        written = model.generate(**ids, max_new_tokens=EVALUATION["max_new_tokens"])[0, ids["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == answer


@pytest.mark.parametrize("name", ["lora", "learned"])
def test_an_exported_adapter_loads_with_peft_on_its_exported_base(trained: Trained, export: Export, name: str) -> None:
    document = export(name)
    folder = Path(document["path"])
    assert (document["name"], document["kind"], document["base_model"]) == (
        f"{name}/adapter",
        "adapter",
        str(folder / "base"),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=compute_dtype("cpu"))
    model = PeftModel.from_pretrained(base, str(folder), autocast_adapter_dtype=False).eval()
    scored = trained.inputs[name]
    expected = load_model(scored["base_model"].path, "cpu", adapter=scored["adapter"].path)
    assert torch.equal(logits(model, probe(tokenizer)), logits(expected, probe(tokenizer)))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "base", "the folder can be moved, and names no path of this machine"
    assert (folder / "chat_template.jinja").read_bytes() == (trained.base.path / "chat_template.jinja").read_bytes()


def test_a_base_model_of_the_hub_is_named_and_not_copied(tmp_path: Path) -> None:
    hosted = Trained(tmp_path / "shop", model="org/tiny")
    hosted.train("lora", "lora")
    plan = plan_export(hosted.store, find_model(hosted.store, "lora"), tmp_path / "out", merged=False)
    write_export(plan, lambda folder: write(folder / "README.md", "the card"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "abc")
    assert not (tmp_path / "out" / "base").exists()
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "the card"


def test_the_card_describes_the_exported_form(export: Export) -> None:
    card = (Path(export("lora")["path"]) / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "peft"
    assert "# lora/adapter" in body
    assert 'Be "brief",' in body
    assert "| **lora/adapter** |" in body


@pytest.mark.parametrize("name", ["whole", "lora", "learned"])
def test_the_code_on_the_card_runs(export: Export, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Copied from the card, with the folder's path put in: what a newcomer does."""
    folder = Path(export(name)["path"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("path/to/this/folder", str(folder)), {})
    assert capsys.readouterr().out.strip()


def test_exported_generation_settings_are_those_of_scoring(trained: Trained, export: Export) -> None:
    folder = Path(export("lora", "--merged")["path"])
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config["do_sample"] is False
    assert config["eos_token_id"] == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert config["pad_token_id"] == tokenizer.pad_token_id


def test_generation_settings_keep_every_stop_token_and_no_sampling_or_penalty(trained: Trained, tmp_path: Path) -> None:
    """A model whose own settings sample, and that ends at a token that its template never writes."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in trained.base.path.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    own = {**sampling, "repetition_penalty": 1.1, "min_new_tokens": 3, "eos_token_id": [7, 9], "max_new_tokens": 90}
    (folder / "generation_config.json").write_text(json.dumps(own), encoding="utf-8")
    tokenizer = load_tokenizer_lazily(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation_config_as_scored(folder, tokenizer) == {
        "do_sample": False,
        "eos_token_id": sorted({7, 9, end}),
        "pad_token_id": tokenizer.pad_token_id,
        "max_new_tokens": 90,
    }


@pytest.mark.parametrize(
    ("name", "merged", "message"),
    [
        ("nobody", False, "There is no model 'nobody' in this project. Choose one of learned, lora, whole, "),
        ("few_shot", False, "the base model with a prompt, so there is no trained model to export"),
        ("base", True, "the base model, so there is no trained model"),
        ("champion", False, "There is no champion yet"),
        ("learned", True, "a learned prompt, which cannot be merged into weights. Export it without --merged"),
    ],
)
def test_models_that_cannot_be_exported_are_refused(
    trained: Trained, tmp_path: Path, name: str, merged: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_export(trained.store, find_model(trained.store, name), tmp_path / "out", merged=merged)
    assert list(tmp_path.iterdir()) == []


def test_the_teacher_cannot_be_exported(tmp_path: Path) -> None:
    asked = Trained(tmp_path / "shop")
    rows = [{"name": name, "kind": name, "scores": {}} for name in ("teacher", "base")]
    document = json.dumps({"test_rows": 1, "test_items": 1, "primary_metric": "loss", "rows": rows})
    found = asked.put("comparison", {}, lambda out: write(out / "comparison.json", document))
    AssetPointers(asked.store.root).write("comparison", None, found)
    with pytest.raises(UserError, match=r"'teacher' is the teacher, .* Choose one of base"):
        find_model(asked.store, "teacher")


def test_a_model_that_failed_its_merge_check_is_refused(tmp_path: Path) -> None:
    failed = Trained(tmp_path / "shop")
    failed.train("lora", "lora", passed=False)
    with pytest.raises(UserError, match="lora failed the check merge"):
        find_model(failed.store, "lora")


def test_a_file_or_folder_with_content_is_not_overwritten(trained: Trained, tmp_path: Path) -> None:
    model = find_model(trained.store, "lora")
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not empty"):
        plan_export(trained.store, model, tmp_path, merged=True)
    with pytest.raises(UserError, match="is a file"):
        plan_export(trained.store, model, tmp_path / "mine.txt", merged=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_export_leaves_nothing(trained: Trained, tmp_path: Path) -> None:
    plan = plan_export(trained.store, find_model(trained.store, "lora"), tmp_path / "out", merged=True)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(plan, lambda folder: None, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_editing_an_export_does_not_touch_the_store(trained: Trained, export: Export) -> None:
    folder = Path(export("lora", "--merged")["path"])
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"broken")
    merged = trained.inputs["lora"]["merged_model"]
    assert trained.store.verify(merged.path, thorough=True).fingerprint == merged.fingerprint


def test_an_export_reports_its_system_prompt(export: Export) -> None:
    assert export("lora")["system_prompt"] == SYSTEM_PROMPT
