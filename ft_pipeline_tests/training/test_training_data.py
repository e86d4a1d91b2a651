"""The worker of `training_data`: no row is lost or truncated, and every fault is named."""

import json
import shutil
from importlib.resources import files

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training import training_data
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.tokens.sample import apply_weight
from ft_pipeline_tests.tables.helpers import spy_on_pandera
from ft_pipeline_tests.training.subject import (
    SHARES,
    conversation,
    job,
    known_rows,
    make_training_data,
    preference_rows,
    settings,
    support_rows,
    write_conversations,
)


def test_every_row_is_written_and_passes_the_audit(tmp_path, tiny_base, monkeypatch):
    seen = spy_on_pandera(monkeypatch)
    folder = make_training_data(tmp_path, tiny_base, support_rows(), settings())
    report = json.loads((folder / "audit.json").read_text())
    assert failures(report) == []
    assert report["rows"] == {"human/train": 24, "human/validation": 6}
    train, validation = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("train", "validation"))
    assert (len(train), len(validation)) == (24, 6) and seen["training_data"] == 30
    assert report["tokens"] == sum(len(row["input_ids"]) for row in train + validation)
    assert report["trained_tokens"] == sum(label >= 0 for row in train + validation for label in row["labels"])
    assert sum(report["histogram"]["counts"]) == 30
    assert "⟦" in report["example"]["marked"] and "⟧" in report["example"]["marked"]


def test_a_row_that_is_too_long_is_refused_and_never_truncated(tmp_path, tiny_base):
    long_row = conversation(500, [("Where is it?", "It is heliotrope. " * 40)], "train")
    folder = make_training_data(tmp_path, tiny_base, [*support_rows(), long_row], settings(max_length=128))
    report = json.loads((folder / "audit.json").read_text())
    check = report["checks"]["no_over_length"]
    assert not check["passed"] and check["value"] == 1 and "rows.jsonl:501" in check["message"]
    (reported,) = report["over_length"]
    stored = next(row for row in pq.read_table(folder / "train.parquet").to_pylist() if row["id"] == long_row["id"])
    assert len(stored["input_ids"]) == reported["tokens"] > 128
    with pytest.raises(UserError, match="token audit"):
        read_split(folder, "train")


def test_a_template_without_a_stop_token_fails_the_audit(tmp_path, tiny_base):
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    folder = make_training_data(tmp_path, base, support_rows(), settings())
    report = json.loads((folder / "audit.json").read_text())
    assert not report["checks"]["stop_token_trained"]["passed"]


def test_dropped_turns_fail_the_audit_and_reasoning_is_counted(tmp_path, tiny_base):
    rows = support_rows()
    tool_row = conversation(500, [("Where is it?", "track(7)"), ("And now?", "It is late.")], "train")
    tool_row["messages"].insert(2, {"role": "tool", "content": "delayed"})
    tool_row["messages"][4]["reasoning_content"] = "The tool says so"
    folder = make_training_data(tmp_path / "kept", tiny_base, [*rows, tool_row], settings())
    report = json.loads((folder / "audit.json").read_text())
    assert failures(report) == []
    assert (report["reasoning"]["turns"], report["reasoning"]["left_out"]) == (1, 1)
    assert "rows.jsonl:501" in report["reasoning"]["message"]
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").write_text(
        template.replace("for message in messages", "for message in messages if message['role'] != 'tool'")
    )
    folder = make_training_data(tmp_path / "dropped", base, [*rows, tool_row], settings())
    check = json.loads((folder / "audit.json").read_text())["checks"]["every_turn_rendered"]
    assert not check["passed"] and check["value"] == 1 and "rows.jsonl:501 turn 3 (tool)" in check["message"]
    with pytest.raises(UserError, match="every_turn_rendered"):
        read_split(folder, "train")


def test_an_answer_of_the_weight_zero_is_shown_and_not_trained(tmp_path, tiny_base):
    row = conversation(500, [("Where is it?", "It is heliotrope."), ("And now?", "It is late.")], "train")
    row["messages"][1]["weight"] = 0.0
    folder = make_training_data(tmp_path, tiny_base, [*support_rows(), row], settings())
    stored = next(each for each in read_split(folder, "train") if each["id"] == row["id"])
    tokenizer = load_tokenizer(tiny_base)
    assert "heliotrope" in tokenizer.decode(stored["input_ids"])
    assert tokenizer.decode([label for label in stored["labels"] if label >= 0]) == "It is late.<|im_end|>"


def test_a_row_with_tools_needs_a_template_with_tools(tmp_path, tiny_base):
    row = {**conversation(500, [("Where is it?", "It is late.")], "train"), "tools": '[{"function":{"name":"track"}}]'}
    with pytest.raises(UserError, match=r"rows.jsonl:501: The chat template omits declared tools"):
        make_training_data(tmp_path, tiny_base, [row, *support_rows()], settings())


def test_a_token_id_outside_the_vocabulary_fails_the_audit(tmp_path, tiny_base):
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    folder = make_training_data(tmp_path, base, support_rows(), settings())
    report = json.loads((folder / "audit.json").read_text())
    assert not report["checks"]["ids_in_vocabulary"]["passed"]


def test_sources_are_weighted_and_a_rows_system_turn_has_priority(tmp_path, tiny_base):
    rows = support_rows()
    system_row = conversation(700, [("hi", "Paris.")], "train")
    system_row["messages"].insert(0, {"role": "system", "content": "OWN SYSTEM"})
    distilled = [conversation(800 + n, [(f"why {n}?", "It takes five working days.")], "train") for n in range(8)]
    experiment = settings().model_copy(
        update={"data": settings().data.model_copy(update={"system_prompt": "THE SYSTEM PROMPT"})}
    )
    inputs = {
        "conversations": write_conversations(tmp_path / "c", [*rows, system_row]),
        "distilled": write_conversations(tmp_path / "d", distilled),
        "base_model": tiny_base,
    }
    work = job("training_data", tmp_path / "job", experiment, inputs)
    summary = training_data.run(work)
    assert summary["audit"]["rows"] == {"human/train": 25, "human/validation": 6, "distilled/train": 2}
    tokenizer = load_tokenizer(tiny_base)
    texts = {row["id"]: tokenizer.decode(row["input_ids"]) for row in read_split(work.out, "train")}
    assert "OWN SYSTEM" in texts[system_row["id"]] and "THE SYSTEM PROMPT" not in texts[system_row["id"]]
    assert all("THE SYSTEM PROMPT" in text for row_id, text in texts.items() if row_id != system_row["id"])


def test_a_weight_copies_whole_rows_and_draws_the_rest_by_seed():
    ids = [str(number) for number in range(10)]
    assert apply_weight(ids, 0, 1).tolist() == []
    assert apply_weight(ids, 1, 1).tolist() == list(range(10))
    assert len(apply_weight(ids, 2.5, 1)) == 25
    drawn, backwards = apply_weight(ids, 0.3, 1), apply_weight(ids[::-1], 0.3, 1)
    assert drawn.tolist() == (9 - backwards).tolist() != apply_weight(ids, 0.3, 2).tolist()


def test_a_smaller_share_of_the_rows_is_part_of_a_larger_one(tmp_path, tiny_base):
    ids_by_share = {}
    for share in (0.25, 0.5, 1.0):
        data = settings().data.model_copy(update={"share": share})
        experiment = settings().model_copy(update={"data": data})
        folder = make_training_data(tmp_path / str(share), tiny_base, support_rows(), experiment)
        ids_by_share[share] = {row["id"] for row in read_split(folder, "train")}
        assert len(read_split(folder, "validation")) == 6
    assert ids_by_share[0.25] < ids_by_share[0.5] < ids_by_share[1.0]
    assert [len(ids) for ids in ids_by_share.values()] == [6, 12, 24]


def test_rows_of_a_file_or_a_table_are_left_out_of_training_alone(tmp_path, tiny_base):
    rows = support_rows()
    for row in rows[:8]:
        row["file"] = "old.jsonl"
    out = {row["id"] for row in rows[:8] if row["split"] == "train"}

    def trained(*without):
        data = settings().data.model_copy(update={"without": without})
        experiment = settings().model_copy(update={"data": data})
        folder = make_training_data(tmp_path / "_".join(without).replace("/", "-"), tiny_base, rows, experiment)
        assert len(read_split(folder, "validation")) == 6
        return {row["id"] for row in read_split(folder, "train")}

    table = rows[0]["table"]
    every = {row["id"] for row in rows if row["split"] == "train"}
    assert out and trained(f"{table}/old.jsonl") == every - out
    with pytest.raises(UserError, match=r"data\.without names 'alpaca/new\.jsonl', which has no training row"):
        trained(f"{table}/old.jsonl", "alpaca/new.jsonl")
    with pytest.raises(UserError, match="No training rows"):
        trained(table)


def test_missing_validation_rows_raise_a_clear_error(tmp_path, tiny_base):
    rows = [row for row in support_rows() if row["split"] == "train"]
    with pytest.raises(UserError, match="No validation rows"):
        make_training_data(tmp_path, tiny_base, rows, settings())


def test_two_runs_write_the_same_rows(tmp_path, tiny_base):
    folders = [make_training_data(tmp_path / name, tiny_base, support_rows(), settings()) for name in "ab"]
    tables = [pq.read_table(folder / "train.parquet") for folder in folders]
    assert tables[0].equals(tables[1])


TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "track", "description": "Where it is", "parameters": {}}}]
)


def calling_row(**arguments):
    """A conversation with two calls in one turn, and one in a later turn."""
    row = conversation(500, [("Where are they?", "."), ("And the last one?", ".")], "train")
    calls = [{"id": f"call_000{number}", "name": "track", "arguments": json.dumps(arguments)} for number in range(3)]
    first, second = (position for position, turn in enumerate(row["messages"]) if turn["role"] == "assistant")
    row["messages"][first] = {"role": "assistant", "content": "", "tool_calls": calls[:2]}
    row["messages"][second] = {"role": "assistant", "content": "I look.", "tool_calls": calls[2:]}
    return {**row, "tools": TOOLS}


def audit_with_template(folder, tiny_base, template, rows):
    """The failed checks of rows under a template."""
    base = folder / "base"
    base.mkdir(parents=True)
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    made = make_training_data(folder, base, rows, settings())
    report = json.loads((made / "audit.json").read_text())
    assert ("calls_read_back" in report["checks"]) == any("tools" in row for row in rows)
    return failures(report)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_trained_calls_read_back_equal(tmp_path, tiny_base, name):
    template = (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    rows = [*support_rows(), calling_row(order=7, note='a "quoted" {brace}', deep={"x": [1, None]})]
    assert audit_with_template(tmp_path, tiny_base, template, rows) == []


@pytest.mark.parametrize(
    ("filters", "detail"),
    [
        ("tojson", "cannot be checked, because the template's way to write calls is unknown"),  # encoded twice
        ("replace('deep', 'deeper')", "calls 'track', but trains"),  # only of some rows
    ],
)
def test_a_template_that_changes_calls_fails_the_audit(tmp_path, tiny_base, filters, detail):
    template = (files("trl") / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    changed = template.replace("tool_call.arguments | tojson", f"tool_call.arguments | tojson | {filters}")
    assert changed != template
    (failure,) = audit_with_template(tmp_path / "calls", tiny_base, changed, [*support_rows(), calling_row(deep=1)])
    assert failure.startswith("calls_read_back: 1 row") and detail in failure and "rows.jsonl:501" in failure
    assert "choose a base_model whose chat template writes calls in a known way" in failure
    assert audit_with_template(tmp_path / "none", tiny_base, changed, support_rows()) == []


def test_calls_in_preference_pairs_are_read_back(tmp_path, tiny_base):
    template = (files("trl") / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    pairs = [{**pair, "tools": TOOLS} for pair in preference_rows()]
    chosen = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "track", "arguments": "{}"}]}
    for pair in pairs:
        pair["chosen"] = [chosen]
    (tmp_path / "preferences").mkdir()
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "preferences" / "rows.parquet")
    inputs = {
        "conversations": write_conversations(tmp_path / "conversations", known_rows()),
        "preferences": tmp_path / "preferences",
        "base_model": base,
    }
    experiment = ExperimentSettings.model_validate({"objective": "dpo", "technique": "lora"})
    work = job("training_data", tmp_path / "job", experiment, inputs)
    work.config["data"] = SHARES
    training_data.run(work)
    report = json.loads((work.out / "audit.json").read_text())
    assert report["checks"]["calls_read_back"]["passed"]
