"""Imported projects run: from another trainer's files to scores, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline_tests.end_to_end.project import current, cut, ft
from ft_pipeline_tests.exchange.helpers import (
    Imported,
    answer,
    question,
    run_import,
    write_json,
    write_lines,
    write_yaml,
)
from ft_pipeline_tests.tiny import tiny_model, tiny_tokenizer

TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>{{ call['function'] | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = '[{"name": "find_order", "description": "Find it", "parameters": {"type": "object", "properties": {}}}]'


def tool_turns(number: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": question(number)},
        {"from": "function_call", "value": json.dumps({"name": "find_order", "arguments": {"order": number}})},
        {"from": "observation", "value": json.dumps({"place": f"shelf {number}"})},
        {"from": "gpt", "value": answer(number)},
    ]


def llamafactory_project(folder: Path) -> Path:
    """Alpaca rows, tool conversations and pairs, and an experiment that continues another one."""
    info: dict[str, Any] = {
        "shop": {"file_name": "shop.json"},
        "tools": {
            "file_name": "tools.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "tools": "tools"},
        },
        "pairs": {
            "file_name": "pairs.json",
            "ranking": True,
            "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
        },
    }
    write_json(folder / "data" / "dataset_info.json", info)
    rows = [{"instruction": question(number), "input": "", "output": answer(number)} for number in range(60)]
    write_json(folder / "data" / "shop.json", rows)
    conversations = [{"conversations": tool_turns(number), "tools": TOOLS} for number in range(60, 84)]
    write_json(folder / "data" / "tools.json", conversations)
    pairs = [
        {"instruction": "Answer the customer.", "input": question(n), "chosen": answer(n), "rejected": f"No idea {n}."}
        for n in range(96, 136)
    ]
    write_json(folder / "data" / "pairs.json", pairs)
    common = {"model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "do_train": True, "template": "qwen3_nothink"}
    common |= {"finetuning_type": "lora", "lora_target": "all", "cutoff_len": 512, "per_device_train_batch_size": 4}
    common |= {"num_train_epochs": 1.0, "learning_rate": "1.0e-3", "bf16": "auto", "logging_steps": 10}
    write_yaml(folder / "sft.yaml", {**common, "stage": "sft", "dataset": "shop,tools", "output_dir": "saves/sft"})
    dpo = {"stage": "dpo", "dataset": "pairs", "adapter_name_or_path": "saves/sft", "output_dir": "saves/dpo"}
    write_yaml(folder / "dpo.yaml", {**common, **dpo, "pref_beta": 0.2})
    return folder


def tiny_base(folder: Path) -> Path:
    """A tiny model whose chat template writes tools and calls."""
    base = tiny_model(folder, positions=1024, initializer_range=0.2)
    tokenizer = tiny_tokenizer(TOOL_TEMPLATE)
    tokenizer.save_pretrained(base)
    return base


def make_small(imported: Imported) -> None:
    """Cut the general suite and the answers, so that a tiny model is scored in seconds."""
    root = imported.root
    for path in (root / "data" / "general").glob("*.jsonl"):
        cut(path, 8)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["evaluation"].update(max_new_tokens=8, max_test_rows=8)
    settings["promotion"] = {"min_test_rows": 2}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def test_a_llamafactory_project_loads_and_its_rows_are_accepted(tmp_path: Path) -> None:
    got = run_import("llamafactory", llamafactory_project(tmp_path / "theirs"), into=tmp_path / "ours")
    assert [name for name, _ in got.project.training_chain("dpo")] == ["sft", "dpo"]
    accepted = {
        file: got.account(file).accepted
        for file in ("alpaca/shop.json", "sharegpt/tools.json", "preferences/pairs.jsonl")
    }
    assert accepted == {"alpaca/shop.json": 60, "sharegpt/tools.json": 24, "preferences/pairs.jsonl": 40}


@pytest.mark.long
def test_a_llamafactory_project_with_tools_and_pairs_runs(tmp_path: Path) -> None:
    theirs = llamafactory_project(tmp_path / "theirs")
    base = tiny_base(tmp_path / "base")
    imported = run_import("llamafactory", theirs, into=tmp_path / "ours", base_model=str(base))
    make_small(imported)
    run = ft(imported.root, "run", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    comparison = current(imported.root, "comparison").document("comparison.json")
    assert {"sft", "dpo"} <= {row["experiment"] for row in comparison["rows"]}


@pytest.mark.long
def test_an_axolotl_project_runs(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    rows = [
        {"messages": [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer(n)}]}
        for n in range(90)
    ]
    write_lines(folder / "data" / "chat.jsonl", rows)
    settings = {
        "base_model": "NousResearch/Llama-3.2-1B",
        "adapter": "qlora",
        "load_in_4bit": True,
        "datasets": [{"path": "data/chat.jsonl", "type": "chat_template"}],
        "val_set_size": 0.1,
        "sequence_len": 512,
        "sample_packing": True,
        "lora_r": 4,
        "lora_target_linear": True,
        "micro_batch_size": 4,
        "learning_rate": "2e-4",
        "optimizer": "adamw_torch_fused",
        "bf16": "auto",
    }
    write_yaml(folder / "qlora.yml", settings)
    base = tiny_base(tmp_path / "base")
    imported = run_import("axolotl", folder, into=tmp_path / "ours", base_model=str(base))
    make_small(imported)
    run = ft(imported.root, "run", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    comparison = current(imported.root, "comparison").document("comparison.json")
    assert "qlora" in {row["experiment"] for row in comparison["rows"]}
