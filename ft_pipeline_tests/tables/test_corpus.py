"""The broken files of ../shared/data/bad, and broken rows for each reason code of the tables."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline_tests.contracts.formats import ASK, GOOD, TELL, turns
from ft_pipeline_tests.tables.helpers import build, validate, write_jsonl

BAD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "bad"
CASES = json.loads((BAD / "expected.json").read_text()) if (BAD / "expected.json").exists() else []


@pytest.mark.skipif(not CASES, reason="../shared/data/bad is not here")
@pytest.mark.parametrize("case", CASES, ids=[case["file"] for case in CASES])
def test_broken_file_gives_the_expected_account(case):
    against = BAD / "35_train.jsonl" if case["file"] == "35_test.jsonl" else None
    report = validate(BAD / case["file"], case["format"], against=against)
    assert report["accepted"] == case["accept"]
    if case["action"] == "refuse":
        assert report["status"] == "refused"
        assert report["error"]["code"] in case["reasons"]
        assert report["read"] == report["quarantined"] == report["duplicates"] == 0
    else:
        assert report["status"] == "accepted"
        assert report["reasons"] == case["reasons"]
        assert report["quarantined"] + report["duplicates"] == case["quarantine"]
        assert report["read"] == case["rows"]


UNUSUAL_ROWS = [
    ("alpaca", '{"instruction": "a", "output": "b", "meta": {"k": 1, "k": 2}}'),
    ("alpaca", '{"meta": 1, "instruction": "a", "output": "b", "meta": 2}'),
    ("alpaca", '{"instruction": "a", "output": "b", "meta": "half \\ud83d", "\\udc00": 1}'),
    ("chat", '{"prompt": "a", "completion": "b", "meta": [{"k": 1, "k": "\\udc00"}]}'),
    ("alpaca", b'{"instruction": "a", "output": "b", "\xe9": "caf\xe9", "meta": ["caf\xe9"]}'),
    ("alpaca", {"instruction": "🙂 <b>bold</b> <p>", "output": "مرحبا\u00a0—\u2009ok\tand\r\nmore"}),
    ("alpaca", {"instruction": "a", "input": None, "output": "<think>why</think> so"}),
    ("alpaca", {"instruction": "if a <| b |> c", "output": "{{ user.name }} {% if x %}"}),
    ("alpaca", {"instruction": "Fix the case", "input": "i like paris.", "output": "I like Paris."}),
    ("alpaca", {"instruction": "a", "output": "b", "system": None, "history": []}),
    ("alpaca", {"instruction": "a", "output": "b", "score": 99999999999999999999999, "meta": {"x": [1, None]}}),
    ("alpaca", '{"instruction": "a", "output": "b", "score": NaN}'),
    ("alpaca", '{ "instruction" :\t"a: \\"key\\": b" , "output" : "c : d" }'),
    ("alpaca", {"instruction": "x" * 25_000, "output": "y" * 25_000}),
    ("sharegpt", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    ("sharegpt", turns(("system", "Be brief."), ASK, TELL, ("human", "Thanks!"), ("gpt", "Thanks!"))),
    ("sharegpt", turns(("human", "Who are you?"), ("gpt", "As a language model, I go by the name Vicuna."))),
    ("text", {"text": "x" * 60_000}),
    ("text", {"text": "ten chars!"}),
    (
        "preferences",
        {"chosen": turns(ASK, TELL)["conversations"], "rejected": turns(ASK, ("gpt", "No."))["conversations"]},
    ),
    (
        "preferences",
        {"prompt": "Where is it?", "chosen": "With the carrier since noon.", "rejected": "Ask someone else."},
    ),
    ("unlabelled", turns(ASK, TELL, ("human", "And now?"))),
    ("unlabelled", {"instruction": "Sum this up", "input": "A long text"}),
]


@pytest.mark.parametrize(
    ("data_format", "row"), UNUSUAL_ROWS, ids=[f"{number}-{row[0]}" for number, row in enumerate(UNUSUAL_ROWS)]
)
def test_unusual_row_is_accepted(tmp_path, data_format, row):
    report = validate(write_jsonl(tmp_path / "file.jsonl", [*GOOD[data_format], row]), data_format)
    assert (report["reasons"], report["accepted"]) == ({}, 3)


MESSAGES = [
    ("alpaca", {"instruction": 42, "output": "b"}, ["`instruction`", "a number (42)", "must be a text"]),
    ("alpaca", '{"instruction": "a", "output": 1e999}', ["`output`", "1e999"]),
    ("alpaca", '{"instruction": "a", "output": "b",}', ["column 3", "near"]),
    ("alpaca", {"instruction": "a", "reply": "b"}, ["no `output`", "'reply'", "columns: {THEIRS: output}"]),
    ("alpaca", {"instruction": "a", "output": "\u200b"}, ["`output`", "'\\u200b'", "remove the row"]),
    ("alpaca", {"text": "A passage"}, ["text format", "'text'", "data/raw/text"]),
    ("alpaca", {"instruction": "a", "output": "b\x00"}, ["`output`", "U+0000", "allow: [control_characters]"]),
    ("alpaca", {"instruction": "a", "input": "x" * 50_000, "output": "b"}, ["50,002", "split it"]),
    ("alpaca", {"instruction": "Say this", "output": "say this."}, ["'say this.'", "real answer"]),
    ("alpaca", GOOD["alpaca"][0], ["equal to a.jsonl:1"]),
    ("sharegpt", turns(("User", "Hello"), TELL), ["turn 1", "'User'", "roles: {User: human}"]),
    ("sharegpt", turns(ASK, ASK, TELL), ["turns 1 and 2", "human", "join them"]),
    ("text", {"text": " short "}, ["'short'", "fewer than 10"]),
    (
        "preferences",
        {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"},
        ["{prompt: prompt}"],
    ),
]


@pytest.mark.parametrize(("data_format", "row", "words"), MESSAGES, ids=[" ".join(case[2]) for case in MESSAGES])
def test_a_message_names_the_value_and_the_fix(tmp_path, data_format, row, words):
    build(tmp_path, data_format, {"a.jsonl": [*GOOD[data_format], row]})
    (message,) = pq.read_table(tmp_path / "out" / "set_aside.parquet")["message"].to_pylist()
    assert all(word in message for word in words), message
    assert len(message) < 300
