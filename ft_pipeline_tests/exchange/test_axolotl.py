"""`ft import axolotl`: the mapping tables, their traps, and data that is read as theirs reads it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.sources.declaration import read_source
from ft_pipeline_tests.exchange.helpers import (
    Imported,
    answer,
    question,
    run_import,
    write_json,
    write_lines,
    write_yaml,
)

ALPACA = [{"instruction": question(number), "input": "", "output": answer(number)} for number in range(4)]
BASE = {"base_model": "acme/base-1b", "learning_rate": 2e-4}


def imported(
    tmp_path: Path, settings: dict[str, Any] | None = None, rows: list[Any] | None = None, **dataset: Any
) -> Imported:
    """An import of one YAML and one data set, d.jsonl."""
    write_lines(tmp_path / "theirs" / "d.jsonl", ALPACA if rows is None else rows)
    datasets = [{"path": "d.jsonl", "type": "alpaca", **dataset}]
    write_yaml(tmp_path / "theirs" / "train.yml", {**BASE, "datasets": datasets, **(settings or {})})
    return run_import("axolotl", tmp_path / "theirs", into=tmp_path / "ours")


def test_defaults_that_differ_from_ours_are_written_out(tmp_path: Path) -> None:
    got = imported(tmp_path)
    experiment = got.experiment("train")
    training = experiment.training
    assert (experiment.base_model, experiment.objective, experiment.technique) == ("acme/base-1b", "sft", "full")
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.warmup_ratio) == (1, 1, 0.03)
    assert (training.optim, training.max_length) == ("adamw_torch", 512)
    assert (training.gradient_checkpointing, training.early_stopping_patience) == (False, None)
    assert training.long_rows == "skip"


def test_a_rate_in_scientific_notation_is_a_text_in_yaml(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "d.jsonl", ALPACA)
    text = "base_model: acme/base-1b\nlearning_rate: 2e-5\ndatasets:\n  - {path: d.jsonl, type: alpaca}\n"
    (tmp_path / "theirs" / "train.yml").write_text(text, encoding="utf-8")
    got = run_import("axolotl", tmp_path / "theirs", into=tmp_path / "ours")
    assert got.experiment("train").training.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("settings", "technique", "modules"),
    [
        ({"adapter": "lora", "lora_r": 16, "lora_target_linear": True}, "lora", "all-linear"),
        ({"adapter": "qlora", "load_in_4bit": True, "lora_target_modules": ["q_proj"]}, "qlora", ["q_proj"]),
        ({"adapter": "lora", "load_in_4bit": True, "lora_target_modules": "down_proj"}, "qlora", ["down_proj"]),
        ({"adapter": "lora", "lora_target_modules": "all-linear"}, "lora", "all-linear"),
        ({"adapter": "lora"}, "lora", ["q_proj", "v_proj"]),
        ({"adapter": "lora", "load_in_8bit": True}, "lora", ["q_proj", "v_proj"]),
    ],
)
def test_adapters(tmp_path: Path, settings: dict[str, Any], technique: str, modules: Any) -> None:
    experiment = imported(tmp_path, settings).experiment("train")
    assert (experiment.technique, experiment.lora.target_modules) == (technique, modules)


def test_a_base_model_in_8_bits_becomes_one_in_16(tmp_path: Path) -> None:
    got = imported(tmp_path, {"adapter": "lora", "load_in_8bit": True})
    assert "16 bits" in got.lines("changed")["load_in_8bit: true"]


def test_all_settings_of_lora(tmp_path: Path) -> None:
    settings = {"adapter": "lora", "lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "peft_use_dora": True}
    settings |= {"lora_rank_pattern": {"q_proj": 4}, "lora_alpha_pattern": {"q_proj": 8}, "peft_use_rslora": True}
    lora = imported(tmp_path, settings).experiment("train").lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.use_dora, lora.use_rslora) == (8, 32, 0.05, True, True)
    assert (lora.rank_pattern, lora.alpha_pattern) == ({"q_proj": 4}, {"q_proj": 8})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"load_in_8bit": True}, "without an adapter"),
        ({"adapter": "qlora", "load_in_8bit": True}, "in 8 bits"),
        ({"adapter": "llama-adapter"}, "llama-adapter"),
        ({"rl": "orpo"}, "orpo"),
        ({"rl": "grpo"}, "grpo"),
        ({"rl": "ipo"}, "ipo"),
        ({"rl": "dpo", "dpo_loss_type": ["ipo"]}, "dpo_loss_type"),
        ({"optimizer": "muon"}, "muon"),
        ({"relora": True}, "ReLoRA"),
        ({"reward_model": True}, "reward model"),
        ({"unfrozen_parameters": ["lm_head"]}, "some of the weights"),
        ({"learning_rate": None}, "learning_rate"),
        ({"load_in_4bit": True}, "without an adapter"),
    ],
)
def test_a_method_without_counterpart_is_refused_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        imported(tmp_path, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_training_settings(tmp_path: Path) -> None:
    settings = {"micro_batch_size": 2, "gradient_accumulation_steps": 4, "num_epochs": 3, "max_steps": 50, "seed": 7}
    settings |= {"lr_scheduler": "linear", "warmup_steps": 5, "weight_decay": 0.1, "max_grad_norm": 0.5}
    settings |= {"neftune_noise_alpha": 5, "optimizer": "paged_adamw_8bit", "gradient_checkpointing": "offload"}
    settings |= {"early_stopping_patience": 2, "evals_per_epoch": 3, "sequence_len": 4096}
    training = imported(tmp_path, settings).experiment("train").training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (2, 4)
    assert (training.num_train_epochs, training.max_steps, training.seed, training.warmup_ratio) == (3, 50, 7, 0.1)
    assert (training.lr_scheduler_type, training.weight_decay, training.max_grad_norm) == ("linear", 0.1, 0.5)
    assert (training.neftune_noise_alpha, training.optim) == (5.0, "paged_adamw_8bit")
    assert training.gradient_checkpointing
    assert (training.early_stopping_patience, training.evals_per_epoch, training.max_length) == (2, 3, 4096)


def test_evaluations_as_a_share_of_the_steps(tmp_path: Path) -> None:
    assert imported(tmp_path, {"eval_steps": 0.05, "num_epochs": 2}).experiment("train").training.evals_per_epoch == 10


def test_batch_size_is_divided(tmp_path: Path) -> None:
    training = imported(tmp_path, {"batch_size": 12, "micro_batch_size": 4}).experiment("train").training
    assert training.gradient_accumulation_steps == 3


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_torch"])
def test_kinds_of_adamw(tmp_path: Path, name: str) -> None:
    assert imported(tmp_path, {"optimizer": name}).experiment("train").training.optim == "adamw_torch"


def test_eight_bit_states_keep_their_kind(tmp_path: Path) -> None:
    assert imported(tmp_path, {"optimizer": "adamw_bnb_8bit"}).experiment("train").training.optim == "adamw_8bit"


def test_rows_that_are_too_long_can_end_the_training(tmp_path: Path) -> None:
    got = imported(tmp_path, {"excess_length_strategy": "raise"})
    assert got.experiment("train").training.long_rows == "fail"


def test_variables_of_the_template_are_taken_over_with_the_base_model(tmp_path: Path) -> None:
    got = imported(tmp_path, {"chat_template_kwargs": {"enable_thinking": False}})
    assert got.experiment("train").chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("variables", [{"messages": "all"}, {"depth": [1, 2]}, "enable_thinking"])
def test_variables_that_ours_does_not_take_are_reported(tmp_path: Path, variables: object) -> None:
    got = imported(tmp_path, {"chat_template_kwargs": variables})
    assert not got.experiment("train").chat_template_kwargs
    assert "Ours takes texts, numbers" in got.effect("chat_template_kwargs")


def test_keys_that_change_what_is_trained_are_named_with_their_effect(tmp_path: Path) -> None:
    settings = {"train_on_inputs": True, "sample_packing": True, "chat_template": "chatml", "bf16": "auto"}
    settings |= {"excess_length_strategy": "truncate", "sequence_len": 2048, "special_tokens": {"pad_token": "<p>"}}
    settings |= {"dataset_exact_deduplication": True, "lora_modules_to_save": ["lm_head"], "plugins": ["x.Plugin"]}
    got = imported(tmp_path, settings)
    assert "only answers" in got.effect("train_on_inputs")
    assert "padding" in got.effect("sample_packing")
    assert "chatml" in got.effect("chat_template")
    assert (got.experiment("train").training.max_length, got.experiment("train").training.long_rows) == (
        2048,
        "truncate",
    )
    assert "tokenizer" in got.effect("special_tokens")
    assert "near ones too" in got.effect("dataset_exact_deduplication")
    assert "only the LoRA matrices" in got.effect("lora_modules_to_save")
    assert "plugins" in got.effect("plugins")


def test_unknown_keys_are_listed_and_trackers_are_one_line(tmp_path: Path) -> None:
    got = imported(tmp_path, {"brand_new": 1, "wandb_project": "x", "wandb_entity": None, "flash_attention": True})
    assert "unknown" in got.effect("brand_new")
    (ignored,) = got.lines("ignored")
    assert ignored == "flash_attention, wandb_project"


def test_the_default_system_message(tmp_path: Path) -> None:
    got = imported(tmp_path, {"default_system_message": "Be kind."})
    assert got.experiment("train").data.system_prompt == "Be kind."


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("alpaca_chat.load_qa", ("question", "answer")),
        ("alpaca_chat.load_camel_ai", ("message_1", "message_2")),
        ("gpteacher", ("instruction", "response")),
        ("oasst", ("INSTRUCTION", "RESPONSE")),
        ("summarizetldr", ("article", "summary")),
        ("alpaca_w_system.load_open_orca", ("question", "response")),
        ("metharme", ("prompt", "generation")),
        ("alpaca:chat", ("instruction", "output")),
    ],
)
def test_types_with_two_columns(tmp_path: Path, kind: str, columns: tuple[str, str]) -> None:
    rows = [{columns[0]: row["instruction"], columns[1]: row["output"]} for row in ALPACA]
    got = imported(tmp_path, rows=rows, type=kind)
    assert got.account("alpaca/d.jsonl").accepted == 4
    assert "chat template" in got.effect(f"type: {kind}")


def test_a_system_column_that_the_type_does_not_read_is_left_out(tmp_path: Path) -> None:
    rows = [{**row, "system": "Shout."} for row in ALPACA]
    assert all("system" not in row for row in imported(tmp_path, rows=rows).rows("alpaca/d.jsonl"))


def test_a_system_column_that_the_type_reads_stays(tmp_path: Path) -> None:
    rows = [{**row, "system": "Whisper."} for row in ALPACA]
    got = imported(tmp_path, rows=rows, type="alpaca_w_system.load")
    assert got.rows("alpaca/d.jsonl")[0]["system"] == "Whisper."


def test_columns_of_the_user(tmp_path: Path) -> None:
    rows = [{"q": row["instruction"], "a": row["output"], "s": "Be brief."} for row in ALPACA]
    kind = {"field_instruction": "q", "field_output": "a", "field_system": "s", "format": "Q: {instruction}"}
    got = imported(tmp_path, rows=rows, type=kind)
    assert got.sidecar("alpaca/d.yaml")["columns"] == {"q": "instruction", "a": "output", "s": "system"}
    assert got.account("alpaca/d.jsonl").accepted == 4
    assert "form of its own" in got.effect("d: format")


def chat(number: int, role: str = "role", content: str = "content", **more: Any) -> list[dict[str, Any]]:
    return [{role: "user", content: question(number)}, {role: "assistant", content: answer(number), **more}]


def test_openai_turns_are_chat_rows(tmp_path: Path) -> None:
    got = imported(tmp_path, rows=[{"messages": chat(number)} for number in range(4)], type="chat_template")
    assert got.account("chat/d.jsonl").accepted == 4
    assert not (tmp_path / "ours/data/raw/chat/d.yaml").exists()


def test_turns_with_other_keys_and_roles(tmp_path: Path) -> None:
    rows = [{"dialog": [{"who": "client", "said": question(n)}, {"who": "bot", "said": answer(n)}]} for n in range(4)]
    got = imported(
        tmp_path,
        rows=rows,
        type="chat_template",
        field_messages="dialog",
        message_property_mappings={"role": "who", "content": "said"},
        roles={"user": ["client"], "assistant": ["bot"], "system": ["system"]},
    )
    sidecar = got.sidecar("sharegpt/d.yaml")
    assert sidecar["columns"] == {"dialog": "conversations", "who": "from", "said": "value"}
    assert sidecar["roles"] == {"client": "human", "bot": "gpt"}
    assert got.account("sharegpt/d.jsonl").accepted == 4


def test_the_old_names_of_the_keys(tmp_path: Path) -> None:
    rows = [{"messages": chat(number, "speaker", "utterance")} for number in range(4)]
    keys = {"message_field_role": "speaker", "message_field_content": "utterance"}
    got = imported(tmp_path, rows=rows, type="chat_template", **keys)
    assert got.account("sharegpt/d.jsonl").accepted == 4


def test_sharegpt_and_its_loaders(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": question(n)}, {"from": "gpt", "value": answer(n)}]}
        for n in range(4)
    ]
    assert imported(tmp_path, rows=rows, type="sharegpt.load_ultrachat").account("sharegpt/d.jsonl").accepted == 4


def test_tools_may_be_json_texts_and_so_may_their_parameters(tmp_path: Path) -> None:
    function = {"name": "find", "description": "Find it", "parameters": '{"type": "object", "properties": {}}'}
    call = {"type": "function", "id": "c1", "function": {"name": "find", "arguments": {"what": "lamp"}}}
    rows = [
        {
            "messages": [{"role": "user", "content": question(n)}, {"role": "assistant", "tool_calls": [call]}],
            "tools": [{"type": "function", "function": function}],
        }
        for n in range(4)
    ]
    got = imported(tmp_path, rows=rows, type="chat_template")
    assert got.rows("chat/d.jsonl")[0]["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert got.account("chat/d.jsonl").accepted == 4


def test_turns_that_are_not_trained_have_the_weight_0(tmp_path: Path) -> None:
    rows = [{"messages": [*chat(n, train=False), *chat(n + 20, train=True)]} for n in range(4)]
    got = imported(tmp_path, rows=rows, type="chat_template", message_field_training="train")
    assert [turn.get("weight") for turn in got.rows("chat/d.jsonl")[0]["messages"]] == [None, 0, None, 1]
    assert got.account("chat/d.jsonl").accepted == 4


def test_reasoning_in_a_field_of_its_own(tmp_path: Path) -> None:
    rows = [{"messages": chat(number, thoughts="It is simple.")} for number in range(4)]
    got = imported(tmp_path, rows=rows, type="chat_template", field_thinking="thoughts")
    assert got.sidecar("chat/d.yaml")["columns"] == {"thoughts": "reasoning_content"}


def test_one_indented_object_is_a_row(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": question(1)}, {"from": "gpt", "value": answer(1)}]}
    path = write_json(tmp_path / "theirs" / "one.json", row)
    path.write_text(path.read_text(encoding="utf-8").replace("{", "{\n", 1), encoding="utf-8")
    got = imported(tmp_path, {"datasets": [{"path": "one.json", "type": "sharegpt"}]})
    assert got.rows("sharegpt/one.jsonl") == [row]


def test_texts_are_continued_pretraining(tmp_path: Path) -> None:
    rows = [{"body": f"A passage about {question(number)}"} for number in range(4)]
    got = imported(tmp_path, rows=rows, type="completion", field="body")
    assert got.experiment("train").objective == "cpt"
    assert got.account("text/d.jsonl").accepted == 4


def test_a_pretraining_dataset(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "t.jsonl", [{"body": f"A passage about {question(n)}"} for n in range(4)])
    settings = {"datasets": None, "pretraining_dataset": [{"path": "t.jsonl", "text_column": "body"}], "max_steps": 10}
    got = imported(tmp_path, settings)
    assert (got.experiment("train").objective, got.account("text/t.jsonl").accepted) == ("cpt", 4)


def test_texts_among_conversations_are_replay(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "t.jsonl", [{"text": f"A passage about {question(n)}"} for n in range(4)])
    datasets = [{"path": "d.jsonl", "type": "alpaca"}, {"path": "t.jsonl", "type": "completion"}]
    experiment = imported(tmp_path, {"datasets": datasets}).experiment("train")
    assert (experiment.objective, experiment.data.weights.replay) == ("sft", 1.0)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("input_output", "in its own way"),
        ("jeopardy", "in its own way"),
        ("stepwise_supervised", "in its own way"),
        (None, "no `type`"),
    ],
)
def test_a_type_without_counterpart_is_named(tmp_path: Path, kind: str | None, named: str) -> None:
    assert named in imported(tmp_path, type=kind).effect("data set d.jsonl")


def test_paths_outside_the_folder_and_missing_ones_are_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "outside.jsonl", ALPACA)
    datasets = [{"path": "../outside.jsonl", "type": "alpaca"}, {"path": "gone/rows.jsonl", "type": "alpaca"}]
    got = imported(tmp_path, {"datasets": datasets})
    assert "outside the imported folder" in got.effect("data set ../outside.jsonl")
    assert "is not there" in got.effect("data set gone/rows.jsonl")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write_lines(tmp_path / "outside.jsonl", ALPACA)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "link.jsonl").symlink_to(outside)
    got = imported(tmp_path, {"datasets": [{"path": "link.jsonl", "type": "alpaca"}]})
    assert "outside" in got.effect("data set link.jsonl")


def test_data_files_of_a_builder(tmp_path: Path) -> None:
    got = imported(tmp_path, {"datasets": [{"path": "json", "data_files": "d.jsonl", "type": "alpaca"}]})
    assert got.account("alpaca/d.jsonl").accepted == 4


def test_a_folder_of_data_files(tmp_path: Path) -> None:
    for part in (0, 1):
        write_lines(tmp_path / "theirs" / "parts" / f"{part}.jsonl", ALPACA[2 * part : 2 * part + 2])
    got = imported(tmp_path, {"datasets": [{"path": "parts", "type": "alpaca", "ds_type": "json"}]})
    assert sorted(got.report["files"]) == ["data/raw/alpaca/parts-0.jsonl", "data/raw/alpaca/parts-1.jsonl"]


def test_remote_data_sets(tmp_path: Path) -> None:
    datasets = [
        {"path": "acme/shop", "type": "alpaca", "revision": "abc", "split": "train[:10%]"},
        {"path": "s3://bucket/rows.jsonl", "type": "alpaca"},
    ]
    got = imported(tmp_path, {"datasets": datasets})
    assert "hf://datasets/acme/shop is not here" in got.effect("path: acme/shop")
    got = run_import("axolotl", tmp_path / "theirs", into=tmp_path / "again", remote=True)
    assert got.sidecar("alpaca/shop.yaml") == {
        "source": "hf://datasets/acme/shop",
        "revision": "abc",
        "split": "train",
    }
    assert got.sidecar("alpaca/rows.yaml") == {"source": "s3://bucket/rows.jsonl"}
    sources = [read_source(tmp_path / "again/data/raw/alpaca" / name) for name in ("shop.yaml", "rows.yaml")]
    assert [source and source.url for source in sources] == ["hf://datasets/acme/shop", "s3://bucket/rows.jsonl"]
    assert "train[:10%]" in got.effect("path: acme/shop")


def test_remote_files_and_buckets_that_cannot_be_named(tmp_path: Path) -> None:
    datasets = [
        {"path": "acme/shop", "type": "alpaca", "data_files": "part/rows.jsonl", "name": "en"},
        {"path": "gs://bucket/rows.jsonl", "type": "alpaca"},
    ]
    imported(tmp_path, {"datasets": datasets})
    got = run_import("axolotl", tmp_path / "theirs", into=tmp_path / "again", remote=True)
    assert got.sidecar("alpaca/shop.yaml")["source"] == "hf://datasets/acme/shop/part/rows.jsonl"
    assert got.effect("path: gs://").startswith(
        "gs://bucket/rows.jsonl is not here. Download it into data/raw/alpaca (no remote source:"
    )


def test_an_address_with_a_secret_is_not_written(tmp_path: Path) -> None:
    datasets = [
        {"path": "https://user:hush@host.example/rows.jsonl", "type": "alpaca"},
        {"path": "https://host.example/rows.jsonl?X-Amz-Signature=hush", "type": "alpaca"},
    ]
    imported(tmp_path, {"datasets": datasets})
    got = run_import("axolotl", tmp_path / "theirs", into=tmp_path / "again", remote=True)
    assert not got.report["files"]
    assert "hush" not in str(got.report)


@pytest.mark.parametrize("changed", [False, True])
def test_a_compressed_file(tmp_path: Path, changed: bool) -> None:
    rows = [{**row, "system": "Shout."} if changed else row for row in ALPACA]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "z.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    got = imported(tmp_path, {"datasets": [{"path": "z.jsonl.gz", "type": "alpaca"}]})
    assert got.account("alpaca/z.jsonl" if changed else "alpaca/z.jsonl.gz").accepted == 4


def test_a_test_dataset(tmp_path: Path) -> None:
    held = [{"instruction": question(number), "output": answer(number)} for number in range(10, 14)]
    write_lines(tmp_path / "theirs" / "held.jsonl", held)
    got = imported(tmp_path, {"test_datasets": [{"path": "held.jsonl", "type": "alpaca", "split": "train"}]})
    assert got.sidecar("alpaca/held.yaml") == {"split": "test"}


# --- preferences ------------------------------------------------------------------------------------------------------


def pairs(tmp_path: Path, rows: list[Any], kind: Any, **dataset: Any) -> Imported:
    return imported(tmp_path, {"rl": "dpo", "rl_beta": 0.2}, rows, type=kind, **dataset)


@pytest.mark.parametrize(
    ("kind", "prompt", "chosen", "rejected"),
    [
        ("chatml.intel", "question", "chosen", "rejected"),
        ("chatml.icr", "input", "chosen", "rejected"),
        ("llama3.prompt_pairs", "prompt", "chosen", "rejected"),
        ("chatml.argilla", "instruction", "chosen_response", "rejected_response"),
        ("chatml", "question", "chosen", "rejected"),
        (None, "prompt", "chosen", "rejected"),
    ],
)
def test_pairs_of_texts(tmp_path: Path, kind: str | None, prompt: str, chosen: str, rejected: str) -> None:
    rows = [{prompt: question(number), chosen: answer(number), rejected: "No idea."} for number in range(4)]
    got = pairs(tmp_path, rows, kind)
    experiment = got.experiment("train")
    assert (experiment.objective, experiment.dpo.beta) == ("dpo", 0.2)
    assert got.account("preferences/d.jsonl").accepted == 4


def test_pairs_with_a_system_prompt_keep_it(tmp_path: Path) -> None:
    rows = [
        {"system": "Be brief.", "question": question(n), "chosen": answer(n), "rejected": "No idea."} for n in range(4)
    ]
    got = pairs(tmp_path, rows, "chatml.intel")
    assert got.rows("preferences/d.jsonl")[0]["chosen"][0] == {"role": "system", "content": "Be brief."}
    assert got.account("preferences/d.jsonl").accepted == 4


def test_pairs_of_lists_with_a_system_prompt_keep_it(tmp_path: Path) -> None:
    rows = [
        {
            "system": "Be brief.",
            "prompt": question(n),
            "chosen": chat(n),
            "rejected": [chat(n)[0], {"role": "assistant", "content": "No idea."}],
        }
        for n in range(4)
    ]
    got = pairs(tmp_path, rows, "chatml.ultra")
    assert [turn["role"] for turn in got.rows("preferences/d.jsonl")[0]["rejected"]] == ["system", "user", "assistant"]
    assert got.account("preferences/d.jsonl").accepted == 4


@pytest.mark.parametrize("shape", ["text", "turn", "list", "whole"])
def test_chat_template_pairs(tmp_path: Path, shape: str) -> None:
    def side(number: int, text: str) -> Any:
        turn = {"role": "assistant", "content": text}
        whole = [chat(number)[0], turn]
        return {"text": text, "turn": turn, "list": [turn], "whole": whole}[shape]

    rows = [{"conversation": chat(n)[:1], "good": side(n, answer(n)), "bad": side(n, "No idea.")} for n in range(4)]
    fields = {"field_messages": "conversation", "field_chosen": "good", "field_rejected": "bad"}
    got = pairs(tmp_path, rows, "chat_template.default", **fields)
    assert got.account("preferences/d.jsonl").accepted == 4


def test_chat_template_pairs_whose_prompt_is_a_text(tmp_path: Path) -> None:
    rows = [
        {"messages": question(n), "chosen": chat(n)[1], "rejected": {"role": "assistant", "content": "No idea."}}
        for n in range(4)
    ]
    assert pairs(tmp_path, rows, "chat_template.default").account("preferences/d.jsonl").accepted == 4


def test_argilla_chat_ignores_the_prompt_column(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "another text",
            "chosen": chat(n),
            "rejected": [chat(n)[0], {"role": "assistant", "content": "No idea."}],
        }
        for n in range(4)
    ]
    assert pairs(tmp_path, rows, "chat_template.argilla_chat").account("preferences/d.jsonl").accepted == 4


def test_nectar_prefers_the_best_rank(tmp_path: Path) -> None:
    answers = [{"answer": "Third.", "rank": 3.0}, {"answer": "First.", "rank": 1.0}, {"answer": "Second.", "rank": 2.0}]
    got = pairs(tmp_path, [{"prompt": question(n), "answers": answers} for n in range(4)], "zephyr.nectar")
    assert got.rows("preferences/d.jsonl")[0] == {"prompt": question(0), "chosen": "First.", "rejected": "Second."}
    assert "the worst" in got.effect("d: type: zephyr.nectar")


def test_pairs_whose_columns_the_user_names(tmp_path: Path) -> None:
    rows = [{"q": question(number), "yes": answer(number), "no": "No idea."} for number in range(4)]
    kind = {"field_prompt": "q", "field_chosen": "yes", "field_rejected": "no"}
    assert pairs(tmp_path, rows, kind).account("preferences/d.jsonl").accepted == 4


def test_an_unknown_type_of_pairs_is_named(tmp_path: Path) -> None:
    assert "in its own way" in pairs(tmp_path, ALPACA, "tower.of_babel").effect("data set d.jsonl")


# --- thumbs -----------------------------------------------------------------------------------------------------------


def thumbs(tmp_path: Path, rows: list[Any], kind: Any, **dataset: Any) -> Imported:
    settings = {"rl": "kto", "rl_beta": 0.2, "kto_desirable_weight": 1.5, "dpo_label_smoothing": 0.1}
    return imported(tmp_path, settings, rows, type=kind, **dataset)


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("chatml.argilla", "instruction"),
        ("llama3.intel", "question"),
        ("chatml.prompt_pairs", "prompt"),
        ("llama3.ultra", "prompt"),
        (None, "prompt"),
    ],
)
def test_thumbs_become_feedback_and_an_experiment_that_learns_from_them(
    tmp_path: Path, kind: str | None, prompt: str
) -> None:
    rows = [{prompt: question(n), "completion": answer(n), "label": n % 3 > 0, "tools": "[]"} for n in range(12)]
    got = thumbs(tmp_path, rows, kind)
    experiment = got.experiment("train")
    assert (experiment.objective, experiment.kto.desirable_weight, experiment.kto.beta) == ("kto", 1.5, 0.2)
    assert got.account("feedback/d.jsonl").accepted == 12
    assert "in this method either" in got.effect("dpo_label_smoothing")
    assert "every fifth answer with a thumb up (2)" in got.effect("d: no conversations")


def test_the_system_prompt_of_thumbs_stays_if_the_type_reads_it(tmp_path: Path) -> None:
    read = [{"system": "Be brief.", "question": question(n), "completion": answer(n), "label": n > 1} for n in range(4)]
    got = thumbs(tmp_path, [{**row, "prompt": "another text"} for row in read], "chatml.intel")
    assert got.rows("feedback/d.jsonl") == read
    assert got.account("feedback/d.jsonl").accepted == 4


@pytest.mark.parametrize("family", ["chatml", "llama3"])
def test_thumbs_on_turns_become_feedback(tmp_path: Path, family: str) -> None:
    rows = [{"prompt": "another text", "completion": chat(n), "label": n % 2 == 0} for n in range(4)]
    rows.append({"prompt": "another text", "completion": [*chat(4), *chat(5)], "label": True})
    got = thumbs(tmp_path, rows, f"{family}.argilla_chat")
    assert got.sidecar("feedback/d.yaml")["columns"] == {"completion": "conversations"}
    assert got.account("feedback/d.jsonl").accepted == 5
    cut = [effect for theirs, effect in got.lines("changed").items() if theirs == "d: type: chatml.argilla_chat"]
    assert ["only the first question" in effect for effect in cut] == [True] * (family == "chatml")


def test_thumbs_whose_columns_the_user_names(tmp_path: Path) -> None:
    rows = [{"q": question(number), "a": answer(number), "good": number > 1} for number in range(4)]
    kind = {"field_prompt": "q", "field_completion": "a", "field_label": "good", "completion_format": "{completion}"}
    got = thumbs(tmp_path, rows, kind)
    assert got.account("feedback/d.jsonl").accepted == 4
    assert "form of its own" in got.effect("d: completion_format")


def test_beta_of_thumbs_in_the_section_trl(tmp_path: Path) -> None:
    rows = [{"prompt": question(number), "completion": answer(number), "label": number > 1} for number in range(4)]
    assert imported(tmp_path, {"rl": "KTO", "trl": {"beta": 0.4}}, rows, type=None).experiment("train").kto.beta == 0.4


def test_an_unknown_type_of_thumbs_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": question(0), "completion": answer(0), "label": True}]
    assert "in its own way" in thumbs(tmp_path, rows, "zephyr.nectar").effect("data set d.jsonl")


def test_a_file_that_no_yaml_names_is_listed_and_can_be_taken_over(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "more.jsonl", [{"messages": chat(number)} for number in range(4)])
    assert "--dataset FILE" in imported(tmp_path).effect("more.jsonl")
    got = run_import("axolotl", tmp_path / "theirs", into=tmp_path / "again", dataset="more.jsonl")
    assert got.account("sharegpt/more.jsonl").accepted == 4


def test_two_yamls_with_one_data_set_copy_it_once(tmp_path: Path) -> None:
    write_yaml(tmp_path / "theirs" / "other.yaml", {**BASE, "datasets": [{"path": "d.jsonl", "type": "alpaca"}]})
    got = imported(tmp_path)
    assert got.report["files"] == ["data/raw/alpaca/d.jsonl"]
    assert got.project.experiment_names() == ["other", "train"]


def test_what_is_read_of_turns_and_files_is_said(tmp_path: Path) -> None:
    got = imported(
        tmp_path,
        rows=[{"messages": chat(number)} for number in range(4)],
        type="chat_template",
        split="train[:50%]",
        roles={"user": ["user"], "assistant": ["assistant"], "critic": ["judge"]},
        message_property_mappings={"role": "role", "content": "content", "tool_calls": "calls"},
        roles_to_train=["assistant", "user"],
        train_on_eos="all",
        drop_system_message=True,
        brand_new=1,
    )
    assert "all rows" in got.effect("d: split")
    assert "no such role" in got.effect("d: roles: critic")
    assert "does not read" in got.effect("d: message_property_mappings: tool_calls: calls")
    assert "weight: 0" in got.effect("d: roles_to_train")
    assert "end of each answer" in got.effect("d: train_on_eos")
    assert "keeps them" in got.effect("d: drop_system_message")
    assert "unknown" in got.effect("d: brand_new")


def test_beta_in_the_section_trl(tmp_path: Path) -> None:
    rows = [{"prompt": question(number), "chosen": answer(number), "rejected": "No idea."} for number in range(4)]
    got = imported(tmp_path, {"rl": "dpo", "trl": {"beta": 0.4, "loss_type": "x"}}, rows, type=None)
    assert got.experiment("train").dpo.beta == 0.4
    assert "dpo.beta" in got.effect("trl: loss_type")
