"""Imported projects run: from another trainer's files to scores, on a tiny model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.automation.simulated import rows as unlike_rows
from ft_pipeline_tests.end_to_end.project import current, cut, ft
from ft_pipeline_tests.exchange.helpers import (
    Imported,
    answer,
    materialize,
    question,
    run_import,
    write_json,
    write_lines,
    write_yaml,
)
from ft_pipeline_tests.tables.helpers import logged_call
from ft_pipeline_tests.tiny import tiny_model, tiny_tokenizer

TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>{{ call['function'] | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECIPE = """
### model
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
trust_remote_code: true

### method
stage: {stage}
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.1

### dataset
dataset: {stage}_en_demo
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16

### output
output_dir: saves/qwen3-4b/lora/{stage}
logging_steps: 10
plot_loss: true

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 1.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
"""
"""A recipe of LLaMA-Factory's examples."""
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


def demo_recipes(folder: Path, stages: Sequence[str] = ("dpo", "kto")) -> Path:
    """LLaMA-Factory's demo data sets of pairs and thumbs, with a few rows each, and a recipe for each stage.

    No row is near another: of the few that become chat rows, one near a test row would be set aside, and the one
    validation row might be that.
    """
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info: dict[str, Any] = {
        "dpo_en_demo": {
            "file_name": "dpo_en_demo.json",
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        "kto_en_demo": {
            "file_name": "kto_en_demo.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": tags,
        },
    }
    write_json(folder / "data" / "dataset_info.json", info)
    pairs = [
        {
            "conversations": [{"from": "human", "value": row["instruction"]}],
            "chosen": {"from": "gpt", "value": row["output"]},
            "rejected": {"from": "gpt", "value": f"I cannot say anything about request {number}."},
        }
        for number, row in enumerate(unlike_rows(40, seed=1))
    ]
    write_json(folder / "data" / "dpo_en_demo.json", pairs)
    rated = [
        {"messages": turns(row["instruction"], row["output"]), "label": number % 3 > 0}
        for number, row in enumerate(unlike_rows(60, seed=2))
    ]
    write_json(folder / "data" / "kto_en_demo.json", rated)
    for stage in stages:
        path = folder / "examples" / "train_lora" / f"qwen3_lora_{stage}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECIPE.format(stage=stage), encoding="utf-8")
    return folder


def chat_turns(number: int) -> list[dict[str, str]]:
    return turns(question(number), answer(number))


def turns(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def axolotl_recipes(folder: Path) -> Path:
    """A YAML for conversations, for pairs and for thumbs, with columns that have other names here."""
    rows = [{"messages": chat_turns(number)} for number in range(60)]
    write_lines(folder / "chat.jsonl", rows)
    pairs = [
        {"instruction": question(n), "chosen_response": answer(n), "rejected_response": f"No idea {n}."}
        for n in range(60, 80)
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    rated = [{"completion": chat_turns(number), "label": number % 4 > 0} for number in range(80, 96)]
    write_lines(folder / "rated.jsonl", rated)
    for name, kind, method in (
        ("chat", "chat_template", {}),
        ("pairs", "chatml.argilla", {"rl": "dpo"}),
        ("rated", "chatml.argilla_chat", {"rl": "kto"}),
    ):
        settings = {"base_model": "acme/base-1b", "learning_rate": 2e-4, **method}
        write_yaml(folder / f"{name}.yml", {**settings, "datasets": [{"path": f"{name}.jsonl", "type": kind}]})
    return folder


def openai_files(folder: Path) -> Path:
    """Files for all three methods of tuning."""
    write_lines(folder / "chat.jsonl", [{"messages": chat_turns(number)} for number in range(60)])
    pairs = [
        {
            "input": {"messages": chat_turns(number)[:1]},
            "preferred_output": chat_turns(number)[1:],
            "non_preferred_output": [{"role": "assistant", "content": f"No idea {number}."}],
        }
        for number in range(60, 80)
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    asked = [{"messages": chat_turns(n)[:1], "ground_truth": answer(n), "target": str(n)} for n in range(80, 96)]
    write_lines(folder / "asked.jsonl", asked)
    return folder


def request_log(folder: Path) -> Path:
    """A log with corrections and thumbs."""
    calls = [logged_call(question(number), answer(number), id=str(number)) for number in range(60)]
    thumbs = [{"feedback": {"id": str(number), "rating": "up" if number % 3 else "down"}} for number in range(20)]
    corrections = [{"feedback": {"id": str(number), "correction": f"Ask {number}."}} for number in range(20, 40)]
    return write_lines(folder / "log.jsonl", [*calls, *thumbs, *corrections])


@pytest.mark.parametrize(
    ("kind", "write", "tables"),
    [
        ("llamafactory", llamafactory_project, {"alpaca": 60, "sharegpt": 24, "preferences": 40}),
        pytest.param("llamafactory", demo_recipes, {"preferences": 40, "feedback": 60}, marks=pytest.mark.long),
        ("axolotl", axolotl_recipes, {"chat": 60, "preferences": 20, "feedback": 16}),
        ("openai", openai_files, {"chat": 60, "preferences": 20, "unlabelled": 16}),
        ("traces", request_log, {"traces": 53, "preferences": 20, "feedback": 20}),
    ],
)
def test_what_an_importer_writes_becomes_tables(
    tmp_path: Path, kind: str, write: Callable[[Path], Path], tables: dict[str, int]
) -> None:
    got = run_import(kind, write(tmp_path / "theirs"), into=tmp_path / "ours")
    built = FORMATS if kind == "traces" else tables  # of the others, the rest is empty
    names = [*(f"raw_{name}" for name in built), *built]
    names += ["conversations", "quarantine"] if kind == "traces" else []
    assert materialize(got.root, *names).success
    summaries = {name: current(got.root, name).summary for name in tables}
    assert {name: summary["accepted"] for name, summary in summaries.items()} == tables
    for name, summary in summaries.items():
        for in_table in summary["files"] if kind != "traces" else ():  # its calls become rows of several tables
            account = got.account(f"{name}/{in_table['file']}")
            for key in ("status", "read", "quarantined"):  # a row may be a duplicate of one in another file
                assert in_table[key] == getattr(account, key), key


def test_experiments_of_a_llamafactory_project_follow_each_other(tmp_path: Path) -> None:
    got = run_import("llamafactory", llamafactory_project(tmp_path / "theirs"), into=tmp_path / "ours")
    assert [name for name, _ in got.project.training_chain("dpo")] == ["sft", "dpo"]


@pytest.mark.long
@pytest.mark.waits
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
@pytest.mark.waits
@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_a_llamafactory_recipe_without_conversations_runs_to_its_verdict(tmp_path: Path, stage: str) -> None:
    theirs = demo_recipes(tmp_path / "theirs", [stage])
    base = tiny_base(tmp_path / "base")
    imported = run_import("llamafactory", theirs, into=tmp_path / "ours", base_model=str(base))
    make_small(imported)
    run = ft(imported.root, "run", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "not recorded" not in run.stderr
    experiment = f"qwen3_lora_{stage}"
    assert imported.experiment(experiment).objective == stage
    comparison = current(imported.root, "comparison").document("comparison.json")
    assert experiment in {row["experiment"] for row in comparison["rows"]}
    assert current(imported.root, "decision").document("decision.json")["verdict"]


@pytest.mark.long
@pytest.mark.waits
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
