"""`ft import llamafactory`: the mapping tables, their traps, and data that is read as theirs reads it."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.exchange import new_project
from ft_pipeline_tests.exchange.helpers import Imported, answer, question, run_import, write_json, write_yaml

WEATHER = '[{"name": "weather", "description": "Look it up", "parameters": {"type": "object", "properties": {}}}]'
ALPACA = [{"instruction": question(number), "input": "", "output": answer(number)} for number in range(4)]


def make(
    folder: Path, info: dict[str, Any], files: dict[str, Any], settings: dict[str, Any] | None = None, **yamls: Any
) -> Path:
    """A project with dataset_info.json in data/, and one YAML with `settings` unless `yamls` are given."""
    write_json(folder / "data" / "dataset_info.json", info)
    for name, rows in files.items():
        write_json(folder / "data" / name, rows)
    base = {"model_name_or_path": "acme/base-1b", "stage": "sft", "do_train": True, "dataset": ",".join(info)}
    for name, document in (yamls or {"train": settings or {}}).items():
        write_yaml(folder / "examples" / f"{name}.yaml", {**base, **document})
    return folder


def imported(tmp_path: Path, settings: dict[str, Any] | None = None, **options: str | bool) -> Imported:
    """An import of one alpaca data set with these settings."""
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.json"}}, {"shop.json": ALPACA}, settings)
    return run_import("llamafactory", source, into=tmp_path / "ours", **options)


def test_defaults_that_differ_from_ours_are_written_out(tmp_path: Path) -> None:
    got = imported(tmp_path)
    experiment = got.experiment("train")
    assert (experiment.base_model, experiment.objective, experiment.technique) == ("acme/base-1b", "sft", "lora")
    lora, training = experiment.lora, experiment.training
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (8, 16, 0.0, "all-linear")
    assert (training.learning_rate, training.num_train_epochs, training.warmup_ratio) == (5e-5, 3, 0.0)
    assert (training.optim, training.lr_scheduler_type, training.max_length) == ("adamw_torch", "linear", 2048)
    assert training.gradient_checkpointing and training.early_stopping_patience is None
    assert training.long_rows == "truncate" and "in proportion" in got.effect("cutoff_len")


def test_thoughts_are_left_out_where_theirs_leaves_them_out(tmp_path: Path) -> None:
    got = imported(tmp_path, {"enable_thinking": False})
    assert got.experiment("train").data.reasoning == "drop"
    assert "chat_template_kwargs: {enable_thinking: false}" in got.effect("enable_thinking")
    got = imported(tmp_path / "on", {"enable_thinking": True})
    assert got.experiment("train").data.reasoning == "train" and "empty thought" in got.effect("enable_thinking")


def test_alpha_is_twice_the_rank_that_is_given(tmp_path: Path) -> None:
    assert imported(tmp_path, {"lora_rank": 16}).experiment("train").lora.lora_alpha == 32


def test_numbers_may_be_texts_and_floats(tmp_path: Path) -> None:
    settings = {"learning_rate": "2e-4", "num_train_epochs": 2.0, "lora_rank": 4.0, "warmup_steps": 0.1}
    training = imported(tmp_path, settings).experiment("train").training
    assert (training.learning_rate, training.num_train_epochs, training.warmup_ratio) == (2e-4, 2, 0.1)


def test_a_part_of_an_epoch_is_rounded_up_and_said(tmp_path: Path) -> None:
    got = imported(tmp_path, {"num_train_epochs": 1.5})
    assert got.experiment("train").training.num_train_epochs == 2
    assert "1.5 epochs" in got.effect("num_train_epochs: 1.5")


def test_warmup_steps_become_a_share_of_max_steps(tmp_path: Path) -> None:
    training = imported(tmp_path, {"warmup_steps": 20, "max_steps": 200}).experiment("train").training
    assert (training.warmup_ratio, training.max_steps) == (0.1, 200)


def test_warmup_steps_without_max_steps_are_said(tmp_path: Path) -> None:
    assert "20 steps" in imported(tmp_path, {"warmup_steps": 20}).effect("warmup_steps: 20")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quantization_bit": 4}, ("qlora", "nf4", True)),
        ({"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False}, ("qlora", "fp4", False)),
        ({"finetuning_type": "full"}, ("full", "nf4", True)),
    ],
)
def test_techniques(tmp_path: Path, settings: dict[str, Any], expected: tuple[str, str, bool]) -> None:
    experiment = imported(tmp_path, settings).experiment("train")
    quantization = experiment.quantization
    found = (experiment.technique, quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant)
    assert found == expected


def test_full_training_drops_the_settings_of_lora_as_theirs_does(tmp_path: Path) -> None:
    got = imported(tmp_path, {"finetuning_type": "full", "lora_rank": 64})
    assert "does not use them" in got.effect("lora_rank")


def test_target_modules_are_a_comma_list(tmp_path: Path) -> None:
    got = imported(tmp_path, {"lora_target": "q_proj, v_proj", "use_dora": True, "use_rslora": True})
    lora = got.experiment("train").lora
    assert (lora.target_modules, lora.use_dora, lora.use_rslora) == (["q_proj", "v_proj"], True, True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stage": "kto", "pref_ftx": 0.5}, "pref_ftx"),
        ({"stage": "ppo"}, "ppo"),
        ({"finetuning_type": "freeze"}, "freeze"),
        ({"quantization_bit": 8}, "8 bits"),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, "hqq"),
        ({"stage": "dpo", "pref_loss": "orpo"}, "orpo"),
        ({"stage": "dpo", "pref_ftx": 0.5}, "pref_ftx"),
        ({"use_galore": True}, "GaLore"),
        ({"optim": "adafactor"}, "adafactor"),
        ({"learning_rate": "fast"}, "fast"),
        ({"lora_rank": 8.5}, "8.5"),
        ({"lora_rank": 4096}, "4096"),
    ],
)
def test_a_method_without_counterpart_is_refused_and_nothing_is_written(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        imported(tmp_path, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_one_refused_experiment_does_not_stop_the_others(tmp_path: Path) -> None:
    source = make(
        tmp_path / "theirs",
        {"shop": {"file_name": "shop.json"}},
        {"shop.json": ALPACA},
        good={},
        bad={"quantization_bit": 8},
    )
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.project.experiment_names() == ["good"]
    assert "quantization_bit: 4" in got.effect("experiment bad")


def test_unknown_keys_are_listed_without_their_values(tmp_path: Path) -> None:
    got = imported(tmp_path, {"brand_new_option": "secret-value", "logging_steps": 5, "output_dir": "saves"})
    assert "unknown" in got.effect("brand_new_option")
    assert "secret-value" not in str(got.report)
    assert list(got.lines("ignored")) == ["do_train, logging_steps, output_dir"]


def test_tokens_are_never_printed(tmp_path: Path) -> None:
    assert "hf_abc" not in str(imported(tmp_path, {"hf_hub_token": "hf_abc"}).report)


def test_keys_that_change_what_is_trained_are_named_with_their_effect(tmp_path: Path) -> None:
    settings = {"train_on_prompt": True, "mask_history": True, "packing": True, "template": "llama3", "bf16": "auto"}
    got = imported(tmp_path, settings)
    assert "only answers" in got.effect("train_on_prompt")
    assert "weight: 0" in got.effect("mask_history")
    assert "padding" in got.effect("packing")
    assert "llama3" in got.effect("template")
    assert "ft doctor" in got.effect("bf16")


def test_the_default_system_prompt_is_trained_and_served(tmp_path: Path) -> None:
    got = imported(tmp_path, {"default_system": "You help customers."})
    assert got.experiment("train").data.system_prompt == "You help customers."
    assert got.project.settings.prompting.variants["system_prompt"].system_prompt == "You help customers."


def test_the_validation_share(tmp_path: Path) -> None:
    assert imported(tmp_path, {"val_size": 0.2}).project.settings.data.validation_share == 0.2


def test_a_number_of_validation_rows_becomes_a_share(tmp_path: Path) -> None:
    assert imported(tmp_path, {"val_size": 1}).project.settings.data.validation_share == 0.25


def test_max_samples_cuts_the_copy(tmp_path: Path) -> None:
    got = imported(tmp_path, {"max_samples": 2})
    assert [row["instruction"] for row in got.rows("alpaca/shop.jsonl")] == [question(0), question(1)]
    assert got.effect("shop: a limit") == "The copy has the first 2 of 4 rows."


def test_base_model_option_replaces_it_everywhere(tmp_path: Path) -> None:
    got = imported(tmp_path, {"model_revision": "abc"}, base_model="embedded")
    experiment = got.experiment("train")
    assert (experiment.base_model, experiment.revision) == ("embedded", None)


def test_the_teacher_is_the_base_model(tmp_path: Path) -> None:
    """The embedded model, which is the default, knows no tools, and is another model than the one that is tuned."""
    teacher = imported(tmp_path, {"model_revision": "abc"}).project.settings.teacher
    assert (teacher.model, teacher.revision, teacher.few_shot) == ("acme/base-1b", "abc", 0)


# --- data -------------------------------------------------------------------------------------------------------------


def data_of(tmp_path: Path, entry: dict[str, Any], rows: list[Any], **settings: Any) -> Imported:
    """An import of one data set, named `d`, in d.json."""
    source = make(tmp_path / "theirs", {"d": {"file_name": "d.json", **entry}}, {"d.json": rows}, settings)
    return run_import("llamafactory", source, into=tmp_path / "ours")


def test_a_file_that_ours_reads_alike_is_copied_byte_for_byte(tmp_path: Path) -> None:
    got = data_of(tmp_path, {}, ALPACA)
    copy = tmp_path / "ours" / "data" / "raw" / "alpaca" / "d.json"
    assert copy.read_bytes() == (tmp_path / "theirs" / "data" / "d.json").read_bytes()
    assert got.account("alpaca/d.json").accepted == 4


def test_a_column_that_columns_does_not_name_is_not_read(tmp_path: Path) -> None:
    """Trap: `columns` without `query` means that `input` is ignored, and ours would read it."""
    rows = [{**row, "input": "Order 12"} for row in ALPACA]
    got = data_of(tmp_path, {"columns": {"prompt": "instruction", "response": "output"}}, rows)
    assert all("input" not in row for row in got.rows("alpaca/d.jsonl"))
    assert "does not read `input`" in got.effect("d: no column input")


def test_history_and_system_are_read_only_if_they_are_named(tmp_path: Path) -> None:
    rows = [{**row, "history": [["Hi", "Hello"]], "system": "Be brief."} for row in ALPACA]
    assert all(
        "history" not in row and "system" not in row for row in data_of(tmp_path, {}, rows).rows("alpaca/d.jsonl")
    )


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"q": row["instruction"], "target": row["output"], "sys": "Be brief."} for row in ALPACA]
    columns = {"prompt": "q", "response": "target", "system": "sys"}
    got = data_of(tmp_path, {"columns": columns}, rows)
    assert got.sidecar("alpaca/d.yaml") == {"columns": {"q": "instruction", "target": "output", "sys": "system"}}
    assert got.account("alpaca/d.json").accepted == 4


def test_an_instruction_in_the_column_input(tmp_path: Path) -> None:
    rows = [{"kind": "x", "input": row["instruction"], "target": row["output"]} for row in ALPACA]
    got = data_of(tmp_path, {"columns": {"prompt": "input", "response": "target"}}, rows)
    assert got.account("alpaca/d.json").accepted == 4


def turns(number: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": question(number)},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Leeds"}}'},
        {"from": "observation", "value": f'{{"degrees": {number}}}'},
        {"from": "gpt", "value": answer(number)},
    ]


def test_calls_results_and_tools_are_read(tmp_path: Path) -> None:
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}}
    got = data_of(tmp_path, entry, [{"conversations": turns(number), "tools": WEATHER} for number in range(4)])
    assert got.sidecar("sharegpt/d.yaml") == {"roles": {"observation": "tool", "function_call": "call"}}
    assert got.account("sharegpt/d.json").accepted == 4


def test_tools_that_columns_does_not_name_are_not_read(tmp_path: Path) -> None:
    rows = [{"conversations": turns(0)[:1] + turns(0)[3:], "tools": WEATHER}]
    got = data_of(tmp_path, {"formatting": "sharegpt", "columns": {"messages": "conversations"}}, rows * 2)
    assert all("tools" not in row for row in got.rows("sharegpt/d.jsonl"))


def test_tags_name_roles_and_keys(tmp_path: Path) -> None:
    rows = [
        {"dialog": [{"who": "Customer", "said": question(number)}, {"who": "Agent", "said": answer(number)}]}
        for number in range(4)
    ]
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "Customer", "assistant_tag": "Agent"}
    got = data_of(tmp_path, {"formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags}, rows)
    sidecar = got.sidecar("sharegpt/d.yaml")
    assert sidecar["columns"] == {"dialog": "conversations", "who": "from", "said": "value"}
    assert sidecar["roles"] == {"Customer": "human", "Agent": "gpt"}
    assert got.account("sharegpt/d.json").accepted == 4


def test_openai_rows(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer(n)}]}
        for n in range(4)
    ]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    got = data_of(tmp_path, {"formatting": "openai", "columns": {"messages": "messages"}, "tags": tags}, rows)
    assert got.account("chat/d.json").accepted == 4


def test_pairs_of_texts_join_prompt_and_query(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Answer:", "input": question(number), "chosen": answer(number), "rejected": "No idea."}
        for number in range(4)
    ]
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    got = data_of(tmp_path, {"ranking": True, "columns": columns}, rows, stage="dpo", pref_beta=0.2)
    assert got.rows("preferences/d.jsonl")[0]["instruction"] == f"Answer:\n{question(0)}"
    assert got.account("preferences/d.jsonl").accepted == 4
    assert got.experiment("train").dpo.beta == 0.2


def test_pairs_of_texts_with_a_system_prompt_become_turns(tmp_path: Path) -> None:
    rows = [
        {"q": question(number), "s": "Be brief.", "h": [["Hi", "Hello"]], "a": answer(number), "b": "No idea."}
        for number in range(4)
    ]
    rows[3]["h"] = 5  # no list of turns: theirs ignores it, too
    columns = {"prompt": "q", "system": "s", "history": "h", "chosen": "a", "rejected": "b"}
    got = data_of(tmp_path, {"ranking": True, "columns": columns}, rows, stage="dpo")
    assert [turn["role"] for turn in got.rows("preferences/d.jsonl")[0]["a"]] == [
        *("system", "user", "assistant", "user", "assistant")
    ]
    assert got.account("preferences/d.jsonl").accepted == 4


def test_pairs_of_turns(tmp_path: Path) -> None:
    rows = [
        {
            "conversations": [{"from": "human", "value": question(number)}],
            "chosen": {"from": "gpt", "value": answer(number)},
            "rejected": {"from": "gpt", "value": "No idea."},
        }
        for number in range(4)
    ]
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    got = data_of(tmp_path, {"formatting": "sharegpt", "ranking": True, "columns": columns}, rows, stage="dpo")
    assert got.account("preferences/d.json").accepted == 4


def test_chosen_answers_are_conversations_if_there_are_none(tmp_path: Path) -> None:
    rows = [{"instruction": question(number), "chosen": answer(number), "rejected": "No idea."} for number in range(8)]
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    got = data_of(tmp_path, {"ranking": True, "columns": columns}, rows, stage="dpo")
    assert got.sidecar("chat/d-chosen-test.yaml") == {"split": "test"}
    assert [row["messages"][0]["content"] for row in got.rows("chat/d-chosen-test.jsonl")] == [question(0), question(5)]
    assert [row["messages"][1]["content"] for row in got.rows("chat/d-chosen.jsonl")] == [answer(1), answer(6)]
    assert "every fifth pair (2)" in got.effect("d: no conversations")


def test_thumbs_become_feedback_and_an_experiment_that_learns_from_them(tmp_path: Path) -> None:
    rows = [
        {"instruction": question(number), "input": "Now.", "output": answer(number), "good": number % 3 > 0}
        for number in range(12)
    ]
    columns = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "good"}
    got = data_of(tmp_path, {"columns": columns}, rows, stage="kto", kto_chosen_weight=1.5, pref_beta=0.2)
    experiment = got.experiment("train")
    assert (experiment.objective, experiment.kto.desirable_weight, experiment.kto.beta) == ("kto", 1.5, 0.2)
    assert got.account("feedback/d.jsonl").accepted == 12
    assert got.rows("feedback/d.jsonl")[0]["instruction"] == f"{question(0)}\nNow."
    made = [*got.rows("chat/d-good-test.jsonl"), *got.rows("chat/d-good.jsonl")]
    assert {row["messages"][1]["content"] for row in made} <= {answer(number) for number in range(12) if number % 3}
    assert "every fifth answer with a thumb up (2)" in got.effect("d: no conversations")


def test_thumbs_on_turns_become_feedback(tmp_path: Path) -> None:
    rows = [
        {
            "turns": [{"from": "human", "value": question(number)}, {"from": "gpt", "value": answer(number)}],
            "kto_tag": bool(number % 2),
        }
        for number in range(8)
    ]
    entry = {"formatting": "sharegpt", "columns": {"messages": "turns", "kto_tag": "kto_tag"}}
    got = data_of(tmp_path, entry, rows, stage="kto")
    assert got.sidecar("feedback/d.yaml")["columns"] == {"turns": "conversations", "kto_tag": "label"}
    assert got.account("feedback/d.json").accepted == 8


def test_a_text_file_is_one_row_per_line(tmp_path: Path) -> None:
    source = make(
        tmp_path / "theirs",
        {"wiki": {"file_name": "wiki.txt", "columns": {"prompt": "text"}}},
        {},
        {"stage": "pt", "cutoff_len": 512},
    )
    (source / "data" / "wiki.txt").write_text("The first passage of text.\n\nThe second passage.\n", encoding="utf-8")
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.rows("text/wiki.jsonl") == [{"text": "The first passage of text."}, {"text": "The second passage."}]
    assert got.experiment("train").objective == "cpt"
    assert "no conversations" in got.lines("no_counterpart")


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"columns": {"prompt": "instruction", "response": "output", "images": "images"}}, "images"),
        ({"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}}, "kto_tag"),
        ({"ranking": True}, "ranking"),
        ({"formatting": "parrot"}, "parrot"),
        ({"columns": {"prompt": "instruction"}}, "response"),
        ({"formatting": "sharegpt", "columns": {"tools": "tools"}}, "messages"),
        ({"file_name": "gone.json"}, "not there"),
        ({"file_name": "../../outside.json"}, "outside"),
        ({"file_name": None, "script_url": "load.py"}, "script"),
        ({"file_name": None, "ms_hub_url": "acme/shop"}, "ModelScope"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_named(tmp_path: Path, entry: dict[str, Any], named: str) -> None:
    write_json(tmp_path / "outside.json", ALPACA)
    got = data_of(
        tmp_path,
        {key: value for key, value in entry.items() if value is not None}
        | ({} if entry.get("file_name", "") is not None else {"file_name": ""}),
        ALPACA,
    )
    assert named in got.effect("data set d")
    assert not got.report["files"]


def test_an_undefined_data_set_is_named(tmp_path: Path) -> None:
    assert "no entry" in imported(tmp_path, {"dataset": "nowhere"}).effect("data set nowhere")


def test_a_hub_data_set_is_named_or_becomes_a_remote_source(tmp_path: Path) -> None:
    info = {
        "d": {
            "hf_hub_url": "acme/shop",
            "subset": "en",
            "split": "train_sft",
            "columns": {"prompt": "question", "response": "answer"},
        }
    }
    source = make(tmp_path / "theirs", info, {})
    got = run_import("llamafactory", source, into=tmp_path / "without")
    assert "hf://datasets/acme/shop is not here" in got.effect("d: acme/shop")
    got = run_import("llamafactory", source, into=tmp_path / "with", remote=True)
    assert got.sidecar("alpaca/d.yaml") == {
        "source": "hf://datasets/acme/shop",
        "revision": "main",
        "subset": "en",
        "split": "train_sft",
        "columns": {"question": "instruction", "answer": "output"},
    }


def test_an_evaluation_set_is_a_test_file(tmp_path: Path) -> None:
    info = {"shop": {"file_name": "shop.json"}, "held": {"file_name": "held.json"}}
    held = [{"instruction": question(number), "output": answer(number)} for number in range(10, 14)]
    settings = {"dataset": "shop", "eval_dataset": "held"}
    source = make(tmp_path / "theirs", info, {"shop.json": ALPACA, "held.json": held}, settings)
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.sidecar("alpaca/held.yaml") == {"split": "test"}
    assert not (tmp_path / "ours/data/raw/alpaca/shop.yaml").exists()


def test_a_data_set_that_no_experiment_uses_is_listed_and_can_be_taken_over(tmp_path: Path) -> None:
    info = {"shop": {"file_name": "shop.json"}, "other": {"file_name": "other.json"}}
    source = make(tmp_path / "theirs", info, {"shop.json": ALPACA, "other.json": ALPACA}, {"dataset": "shop"})
    got = run_import("llamafactory", source, into=tmp_path / "a")
    assert "--dataset NAME" in got.effect("other")
    got = run_import("llamafactory", source, into=tmp_path / "b", dataset="other")
    assert "data/raw/alpaca/other.json" in got.report["files"]


# --- several files ----------------------------------------------------------------------------------------------------


def test_experiments_continue_where_theirs_do(tmp_path: Path) -> None:
    info = {
        "shop": {"file_name": "shop.json"},
        "pairs": {
            "file_name": "pairs.json",
            "ranking": True,
            "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
        },
    }
    pairs = [{"instruction": question(n), "chosen": answer(n), "rejected": "No idea."} for n in range(4)]
    source = make(
        tmp_path / "theirs",
        info,
        {"shop.json": ALPACA, "pairs.json": pairs},
        sft={"dataset": "shop", "output_dir": "saves/sft"},
        dpo={"stage": "dpo", "dataset": "pairs", "adapter_name_or_path": "saves/sft/"},
        again={"dataset": "shop", "model_name_or_path": "models/merged"},
    )
    merge = {"model_name_or_path": "acme/base-1b", "adapter_name_or_path": "saves/sft", "export_dir": "models/merged"}
    write_yaml(source / "examples" / "merge.yaml", merge)
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.experiment("dpo").start_from == got.experiment("again").start_from == "sft"
    assert got.experiment("again").base_model == "acme/base-1b"
    assert [name for name, _ in got.project.training_chain("dpo")] == ["sft", "dpo"]


def test_experiments_with_other_data_share_the_rows_and_it_is_said(tmp_path: Path) -> None:
    info = {"shop": {"file_name": "shop.json"}, "other": {"file_name": "other.json"}}
    files = {"shop.json": ALPACA, "other.json": ALPACA}
    source = make(tmp_path / "theirs", info, files, one={"dataset": "shop"}, two={"dataset": "other"})
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert "same rows" in got.effect("trains on shop")


def test_one_yaml_finds_its_dataset_info_above_it(tmp_path: Path) -> None:
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.json"}}, {"shop.json": ALPACA}, one={}, two={})
    got = run_import("llamafactory", source / "examples" / "two.yaml", into=tmp_path / "ours")
    assert got.project.experiment_names() == ["two"]
    assert got.account("alpaca/shop.json").accepted == 4


def test_files_that_are_not_about_a_training_are_one_line(tmp_path: Path) -> None:
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.json"}}, {"shop.json": ALPACA}, good={})
    write_yaml(source / "examples" / "chat.yaml", {"model_name_or_path": "acme/base-1b", "template": "llama3"})
    write_yaml(source / "ds.yaml", {"zero": 3})
    (source / "broken.yaml").write_text("a: [1", encoding="utf-8")
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert "not settings of a training" in got.effect("ds.yaml, examples/chat.yaml")
    assert "not valid YAML at line 1" in got.effect("file broken.yaml")


def test_the_target_must_be_free(tmp_path: Path) -> None:
    imported(tmp_path)
    with pytest.raises(UserError, match="is not empty"):
        imported(tmp_path)
    note = tmp_path / "ours" / "note.txt"
    note.write_text("mine", encoding="utf-8")
    assert imported(tmp_path, force=True).project.experiment_names() == ["train"]
    assert not note.exists()
    (tmp_path / "ours" / "data" / "store" / "artifacts").mkdir(parents=True)
    with pytest.raises(UserError, match="results in data/store"):
        imported(tmp_path, force=True)


def test_an_import_that_is_stopped_leaves_nothing_and_the_old_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(tmp_path)
    before = (tmp_path / "ours" / "project.yaml").stat().st_mtime_ns

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(new_project, "place_all", stop)
    with pytest.raises(UserError):  # the command ends with an exit code, and no project
        imported(tmp_path, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    assert (tmp_path / "ours" / "project.yaml").stat().st_mtime_ns == before


def test_force_replaces_nothing_that_is_not_a_project(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not a project"):
        imported(tmp_path, force=True)
    assert (tmp_path / "ours" / "thesis.tex").read_text(encoding="utf-8") == "mine"


def test_errors_are_two_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no .*nowhere\. Name a folder"):
        run_import("llamafactory", tmp_path / "nowhere", into=tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no YAML of a training"):
        run_import("llamafactory", tmp_path / "empty", into=tmp_path / "ours")
    make(tmp_path / "theirs", {}, {}, {"dataset": "shop"})
    (tmp_path / "theirs" / "data" / "dataset_info.json").write_text("[1", encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON"):
        run_import("llamafactory", tmp_path / "theirs", into=tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_experiments_that_start_from_each_other_are_refused(tmp_path: Path) -> None:
    one = {"output_dir": "saves/one", "adapter_name_or_path": "saves/two"}
    two = {"output_dir": "saves/two", "adapter_name_or_path": "saves/one"}
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.json"}}, {"shop.json": ALPACA}, one=one, two=two)
    with pytest.raises(UserError, match="starts from itself"):
        run_import("llamafactory", source, into=tmp_path / "ours")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "\n".join(["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]),
    ],
)
def test_aliases_that_grow_without_end_are_refused(tmp_path: Path, text: str) -> None:
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.json"}}, {"shop.json": ALPACA}, good={})
    (source / "bomb.yaml").write_text(text, encoding="utf-8")
    assert "too many values" in run_import("llamafactory", source, into=tmp_path / "ours").effect("file bomb.yaml")


def test_a_text_data_set_can_be_taken_over_for_later(tmp_path: Path) -> None:
    info = {"shop": {"file_name": "shop.json"}, "wiki": {"file_name": "wiki.json", "columns": {"prompt": "body"}}}
    files = {"shop.json": ALPACA, "wiki.json": [{"body": f"A passage about {question(n)}"} for n in range(4)]}
    source = make(tmp_path / "theirs", info, files, {"dataset": "shop"})
    got = run_import("llamafactory", source, into=tmp_path / "ours", dataset="wiki")
    assert got.account("text/wiki.json").accepted == 4


def test_rows_that_cannot_be_read_are_kept_in_a_changed_copy(tmp_path: Path) -> None:
    rows = "\n".join(
        [
            '{"instruction": "Where is it?", "output": "On the shelf.", "history": [["a", "b"]]}',
            "not json",
            '["a", "list"]',
            '{"instruction": "What is it?", "output": "A lamp.", "score": NaN}',
            '{"instruction": "Twice?", "output": "One.", "output": "Two."}',
            '{"instruction": "And now?", "output": "In the box.", "id": 123456789012345678901234567890}',
        ]
    )
    source = make(tmp_path / "theirs", {"shop": {"file_name": "shop.jsonl"}}, {}, {})
    (source / "data" / "shop.jsonl").write_text(rows, encoding="utf-8")
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    account = got.account("alpaca/shop.jsonl")
    assert (account.read, account.accepted, account.quarantined) == (6, 3, 3)
    text = (tmp_path / "ours/data/raw/alpaca/shop.jsonl").read_text("utf-8")
    assert "123456789012345678901234567890" in text and "NaN" in text and '"output": "Two."' in text


def test_csv_and_parquet_are_copied(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = {"a": {"file_name": "a.csv"}, "b": {"file_name": "b.parquet"}}
    source = make(tmp_path / "theirs", info, {}, {})
    lines = "".join(f'"{row["instruction"]}","{row["output"]}"\n' for row in ALPACA)
    (source / "data" / "a.csv").write_text(f"instruction,output\n{lines}", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ALPACA), source / "data" / "b.parquet")
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.account("alpaca/a.csv").accepted == got.account("alpaca/b.parquet").accepted == 4


def test_arrow_files_become_json_lines(tmp_path: Path) -> None:
    import pyarrow as pa

    source = make(tmp_path / "theirs", {"a": {"file_name": "a.arrow"}}, {}, {})
    table = pa.Table.from_pylist(ALPACA)
    with pa.OSFile(str(source / "data" / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    got = run_import("llamafactory", source, into=tmp_path / "ours")
    assert got.account("alpaca/a.jsonl").accepted == 4


def test_what_is_read_of_turns_in_another_way_is_said(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer(n)}]}
        for n in range(4)
    ]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"formatting": "openai", "columns": {"messages": "messages"}, "tags": tags, "num_samples": 3}
    got = data_of(tmp_path, entry, rows)
    assert "skips rows with a system turn" in got.effect("d: no system_tag")
    assert "detailed thinking off" in got.effect("d: formatting: openai")
    assert "at random" in got.effect("d: num_samples: 3")
    assert len(got.rows("chat/d.jsonl")) == 3
