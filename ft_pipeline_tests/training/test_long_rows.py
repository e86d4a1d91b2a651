"""Rows longer than `max_length`: left out or cut by choice, and counted exactly."""

import json
import shutil
from types import SimpleNamespace

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.steps import training_data
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.tokens.long_rows import LongRows
from ft_pipeline_tests.release.chat_families import of_trl
from ft_pipeline_tests.training.subject import (
    conversation,
    known_rows,
    make_training_data,
    preference_rows,
    settings,
    support_rows,
)
from ft_pipeline_tests.training.test_objectives import experiment, make

LIMIT = 128
LONG_ANSWER = conversation(500, [("Where is it?", "It is heliotrope. " * 40)], "train")
LONG_QUESTION = conversation(501, [("Where is my parcel? " * 40, "It is late.")], "train")
LONG_SECOND_TURN = conversation(502, [("Where is it?", "Here."), ("And now? " * 60, "There.")], "train")


def prepared(folder, base, long_rows, *rows, copies=1):
    chosen = settings(max_length=LIMIT, long_rows=long_rows)
    made = make_training_data(folder, base, [*support_rows(), *rows * copies], chosen)
    report = json.loads((made / "audit.json").read_text())
    assert failures(report) == [] and report["over_length"] == []
    stored = {split: read_split(made, split) for split in ("train", "validation")}
    assert report["tokens"] == sum(len(row["input_ids"]) for rows in stored.values() for row in rows)
    assert report["rows"] == {f"human/{split}": len(rows) for split, rows in stored.items()}
    return report, {row["id"]: row for row in stored["train"]}


def trained_text(tokenizer, row, labels="labels"):
    return tokenizer.decode([label for label in row[labels] if label >= 0])


def test_skipped_rows_are_listed_with_their_length(tmp_path, tiny_base):
    report, stored = prepared(tmp_path, tiny_base, "skip", LONG_ANSWER, LONG_QUESTION)
    assert [(row["table"], row["file"], row["row"], row["code"]) for row in report["left_out"]] == [
        ("alpaca", "rows.jsonl", 501, "over_length"),
        ("alpaca", "rows.jsonl", 502, "over_length"),
    ]
    assert all(row["tokens"] > LIMIT for row in report["left_out"])
    assert len(stored) == 24 and report["long_rows"]["cut"] == []
    assert "2 are left out and 0 are cut" in report["long_rows"]["message"]


@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_rows_of_two_tables_are_two_rows(objective, tmp_path, tiny_base):
    """Files of different tables may have the same name."""
    other = {**LONG_ANSWER, "id": f"{501:064x}", "table": "sharegpt"}
    rewarded = {"grpo": {"rewards": {"rouge_l": 1}}} if objective == "grpo" else {}
    chosen = {"objective": objective, "training": {"max_length": LIMIT, "long_rows": "skip"}, **rewarded}
    rows = [*support_rows(), LONG_ANSWER, other]
    made = make_training_data(tmp_path, tiny_base, rows, ExperimentSettings.model_validate(chosen))
    report = json.loads((made / "audit.json").read_text())
    assert [(row["table"], row["row"]) for row in report["left_out"]] == [("alpaca", 501), ("sharegpt", 501)]


def test_a_cut_answer_trains_no_stop_token_and_a_cut_prompt_is_left_out(tmp_path, tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    report, stored = prepared(tmp_path, tiny_base, "truncate", LONG_ANSWER, LONG_QUESTION, LONG_SECOND_TURN, copies=2)
    cut = stored[LONG_ANSWER["id"]]
    assert len(cut["input_ids"]) == LIMIT
    text = trained_text(tokenizer, cut)
    assert text.startswith("It is heliotrope.") and "<|im_end|>" not in text
    assert trained_text(tokenizer, stored[LONG_SECOND_TURN["id"]]) == "Here.<|im_end|>"
    assert stored[LONG_SECOND_TURN["id"]]["labels"][-1] >= 0
    assert [(row["row"], row["code"]) for row in report["left_out"]] == [(502, "over_length")]
    entries = {entry["row"]: entry for entry in report["long_rows"]["cut"]}
    assert entries.keys() == {501, 503}
    assert entries[501]["tokens"] - entries[501]["lost_tokens"] == LIMIT
    assert report["long_rows"]["lost_tokens"] == sum(entry["lost_tokens"] for entry in entries.values())
    spec = {"config": {"experiment": {"objective": "sft"}}}
    page = training_data.page(SimpleNamespace(summary={"audit": report}, spec=spec, inputs={}))
    assert page["long_rows"] == report["long_rows"]["message"]
    assert [(row["row"], row["left_out"]) for row in page["rows_too_long"].rows] == [
        (502, "yes"),
        (501, "no"),
        (503, "no"),
    ]


def test_a_turn_with_calls_is_not_cut(tmp_path, tiny_base):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(of_trl("qwen3"))
    row = conversation(600, [("Where is it?", "Here."), ("Find it.", "")], "train")
    arguments = json.dumps({"text": "heliotrope " * 60})
    row["messages"][3]["tool_calls"] = [{"id": "call00001", "name": "find", "arguments": arguments}]
    row["tools"] = json.dumps([{"type": "function", "function": {"name": "find", "parameters": {}}}])
    chosen = settings(max_length=400, long_rows="truncate")
    made = make_training_data(tmp_path, base, [row, *support_rows()], chosen)
    report = json.loads((made / "audit.json").read_text())
    assert failures(report) == []
    stored = next(each for each in read_split(made, "train") if each["id"] == row["id"])
    text = trained_text(load_tokenizer(base), stored)
    assert "Here." in text and "tool_call" not in text and text.endswith("<|im_end|>")


def test_of_a_pair_neither_answer_trains_a_stop_token_if_one_is_cut(tmp_path, tiny_base):
    tokenizer, rows = load_tokenizer(tiny_base), preference_rows()
    rows[3]["chosen"][0]["content"] = "It is heliotrope. " * 40
    rows[4]["prompt_messages"][0]["content"] = "Where is it? " * 60
    same_start = "It is heliotrope. " * 40
    rows[5]["chosen"][0]["content"], rows[5]["rejected"][0]["content"] = same_start + "Yes.", same_start + "No."
    folder, report = make(
        tmp_path, tiny_base, experiment("dpo", max_length=LIMIT, long_rows="truncate"), rows, known_rows()
    )
    assert failures(report) == []
    stored = {row["id"]: row for split in ("train", "validation") for row in read_split(folder, split)}
    assert len(stored) == 22
    assert [(row["table"], row["row"]) for row in report["left_out"]] == [("preferences", 5), ("preferences", 6)]
    (cut,) = report["long_rows"]["cut"]
    assert cut["row"] == 4
    pair = stored[rows[3]["id"]]
    assert trained_text(tokenizer, pair).startswith("It is heliotrope.")
    assert trained_text(tokenizer, pair, "rejected_labels") == rows[3]["rejected"][0]["content"]
    whole = stored[rows[0]["id"]]
    assert all(trained_text(tokenizer, whole, name).endswith("<|im_end|>") for name in ("labels", "rejected_labels"))


def test_a_split_without_rows_is_a_clear_error(tmp_path, tiny_base):
    with pytest.raises(UserError, match=r"No training row is left: .* Raise training.max_length"):
        make_training_data(tmp_path, tiny_base, support_rows(), settings(max_length=8, long_rows="skip"))


def test_the_default_changes_no_spec_and_no_audit(tmp_path, tiny_base):
    assert "long_rows" not in settings().model_dump(mode="json")["training"]
    assert LongRows("fail", 8).report() == {}
    assert settings(long_rows="skip").model_dump(mode="json")["training"]["long_rows"] == "skip"
    with pytest.raises(ValueError, match="divides its texts into blocks"):
        ExperimentSettings.model_validate({"objective": "cpt", "training": {"long_rows": "skip"}})
