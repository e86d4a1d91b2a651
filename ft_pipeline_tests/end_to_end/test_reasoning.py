"""Rows with reasoning through a whole `ft run`, with a template like Qwen3's: trained, or left out of everything."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.models.load import load_tokenizer
from ft_pipeline_tests.end_to_end.project import current, ft, ft_json, small_project
from ft_pipeline_tests.release.chat_families import of_trl

pytestmark = [pytest.mark.slow, pytest.mark.long]
THOUGHT = "The carrier scanned parcel {number} twice"
WITHOUT = {"data": {"reasoning": "drop"}, "chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_project(tmp_path_factory.mktemp("reasoning") / "shop", variants=False)
    for path in (root / "data" / "raw").rglob("*.jsonl"):
        if path.parent.name != "text":
            path.unlink()
    (root / "models" / "tiny" / "chat_template.jinja").write_text(of_trl("qwen3"), encoding="utf-8")
    rows = []
    for number in range(80):
        answer = {"role": "assistant", "content": f"Parcel {number} arrives on day {number % 7} of the week."}
        thought = THOUGHT.format(number=number)
        if number % 2:
            answer["reasoning_content"] = thought
        else:
            answer["content"] = f"<think>\n{thought}\n</think>\n\n{answer['content']}"
        rows.append({"messages": [{"role": "user", "content": f"When does my parcel {number} arrive here?"}, answer]})
    lines = [json.dumps(row) + "\n" for row in rows]
    (root / "data" / "raw" / "chat").mkdir(exist_ok=True)
    (root / "data" / "raw" / "chat" / "thoughts.jsonl").write_text("".join(lines), encoding="utf-8")
    qlora = yaml.safe_load((root / "experiments" / "qlora.yaml").read_text(encoding="utf-8"))
    qlora["technique"] = "lora"
    (root / "experiments" / "qlora.yaml").unlink()
    for name, keys in {"trained": {}, "dropped": WITHOUT}.items():
        (root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump({**qlora, **keys}), encoding="utf-8")
    done = ft(root, "run", timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def learned(root: Path, name: str) -> list[str]:
    """The trained text of each training row."""
    tokenizer = load_tokenizer(current(root, "base_model", name).path)
    labels = pq.read_table(current(root, "training_data", name).path / "train.parquet", columns=["labels"])["labels"]
    return [tokenizer.decode([label for label in row if label >= 0]) for row in labels.to_pylist()]


def test_reasoning_is_trained_or_left_out_and_the_audit_counts_it(root: Path) -> None:
    trained, dropped = learned(root, "trained"), learned(root, "dropped")
    assert len(trained) == len(dropped) > 0
    assert all("The carrier scanned" in text and "arrives on day" in text for text in trained)
    assert all("The carrier scanned" not in text and "arrives on day" in text for text in dropped)
    for name, left_out in (("trained", 0), ("dropped", 1)):
        counts = current(root, "training_data", name).summary["audit"]["reasoning"]
        assert counts["left_out"] == left_out * counts["turns"] and counts["rows"] == counts["turns"] > 0


def test_with_thinking_off_the_empty_block_is_part_of_the_prompt(root: Path) -> None:
    assert all("<think>" not in text for text in learned(root, "dropped"))
    template = load_tokenizer(current(root, "merged_model", "dropped").path)
    prompt = template.apply_chat_template(
        [{"role": "user", "content": "Hm?"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<think>\n\n</think>\n\n")


def test_test_rows_are_scored_as_the_model_was_trained(root: Path) -> None:
    for name in ("trained", "dropped"):
        samples = pq.read_table(current(root, "scores", name).path / "samples.parquet").to_pylist()
        assert samples
        assert all("The carrier scanned" not in sample["reference"] for sample in samples if name == "dropped")
    tokens = {
        name: {
            sample["item"]: sample["answer_tokens"]
            for sample in pq.read_table(current(root, "scores", name).path / "samples.parquet").to_pylist()
        }
        for name in ("trained", "dropped")
    }
    assert tokens["trained"].keys() == tokens["dropped"].keys()
    assert all(tokens["dropped"][item] < tokens["trained"][item] for item in tokens["dropped"])


def test_both_are_compared_and_the_store_is_in_order(root: Path) -> None:
    names = {row["name"] for row in ft_json(root, "compare")["rows"]}
    assert {"trained/merged", "dropped/merged"} <= names
    assert "all hashes match the records" in ft(root, "audit", "--verify").stdout
