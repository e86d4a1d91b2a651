"""The rows to look at first: the longest and the oddest."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ft_pipeline.project import read_jsonl
from ft_pipeline.scaffold import example_folder
from ft_pipeline.store.text_redaction import ErasedTexts
from ft_pipeline.tables import inspection, oddness, row_texts
from ft_pipeline.tables.conversations import SCHEMA
from ft_pipeline.tables.inspection import inspect_rows, shorten
from ft_pipeline.tables.row_texts import SmallestIds, sample_rows
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import build, build_chat_tables

ODD = {
    "random letters": ("Where is my order?", "asdf qwer zxcv poiu lkjh mnbv asdf qwpo eiru tyal skdj fhgz mxnc bvqp"),
    "another language": (
        "Wo ist meine Bestellung? Ich warte seit zwei Wochen darauf.",
        "Das tut mir leid. Bitte senden Sie uns Ihre Bestellnummer.",
    ),
    "another script": ("订单在哪里？我已经等了两个星期了。", "非常抱歉，请把订单号发给我们，我们马上查询。"),
    "a loop": ("Can I return it?", "Thank you for your message. " * 5),
    "JSON": ("What is the size?", '{"order_id": 123, "status": ["ok", "x"], "total": 12.50, "currency": "GBP"}'),
    "no answer": (
        "I ordered a lamp three weeks ago, and when it came it was broken in two places, and I wrote to you twice but "
        "nobody answered, and my neighbour says I should complain to the ombudsman, what do you say to that?",
        "Ok.",
    ),
    "punctuation": ("hello", "!" * 40),
    "markup": ("Where is it", '<div class="msg"><p>It is <b>on</b> its way</p><br/></div><div class="f"></div>'),
    "a broken encoding": ("Is it ok", "Itâ€™s â€œon its wayâ€\x9d, weâ€™ll let you know. Donâ€™t worry, itâ€™s fine."),
}
"""Why a row is odd among the questions to a shop → (question, answer)."""


def rows_of(pairs, file, split="train"):
    """Rows of `conversations`, one turn each."""
    return [
        {
            "id": hashlib.sha256(repr(pair).encode()).hexdigest(),
            "split": split,
            "group": "",
            "messages": [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)
            ],
            "table": "alpaca",
            "file": file,
            "row": number,
        }
        for number, pair in enumerate(pairs, 1)
    ]


@pytest.fixture(scope="module")
def ordinary() -> list[dict]:
    """The conversations of the worked example."""
    files = sorted((example_folder() / "data" / "raw" / "alpaca").glob("support_*.jsonl"))
    pairs = [
        ("\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"])
        for file in files
        for row in read_jsonl(file)
    ]
    assert len(pairs) > 500
    return rows_of(pairs, "ordinary.jsonl")


def write(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def test_the_odd_rows_come_before_all_others(tmp_path, ordinary) -> None:
    planted = rows_of(ODD.values(), "odd.jsonl")
    path = write(tmp_path / "rows.parquet", [*ordinary[:300], *planted, *ordinary[300:]])
    found = inspect_rows(path, "conversations", len(ODD))
    assert {row.origin for row in found.oddest} == {f"alpaca/odd.jsonl:{number}" for number in range(1, len(ODD) + 1)}
    why = {name: next(row.why for row in found.oddest if row.row == number) for number, name in enumerate(ODD, 1)}
    for name, words in {
        "random letters": "character sequences are in no other row",
        "another script": "character sequences are in no other row",
        "a loop": "of it is repetition (median 0%)",
        "no answer": "its prompt is 52.2 × as long as its answer",
        "punctuation": "of it is digits and symbols",
    }.items():
        assert words in why[name].split("; ")[0], (name, why[name])
    assert {row.language for row in found.oddest} >= {"de", "zh", "unknown"}


def test_equal_rows_are_not_odd(tmp_path) -> None:
    rows = rows_of(
        [(f"Is order {number} on its way to me?", "Yes, it is on its way.") for number in range(50)], "a.jsonl"
    )
    found = inspect_rows(write(tmp_path / "rows.parquet", rows), "conversations", 5)
    assert (found.rows, found.searched, found.oddest, len(found.longest)) == (50, 50, [], 5)


def test_the_longest_come_first(tmp_path, ordinary) -> None:
    found = inspect_rows(write(tmp_path / "rows.parquet", ordinary), "conversations", 4)
    lengths = sorted((sum(len(turn["content"]) for turn in row["messages"]) for row in ordinary), reverse=True)
    assert [row.characters for row in found.longest] == lengths[:4]
    assert found.longest[0].why.startswith(f"{lengths[0]:,} characters (median ")


def test_the_order_of_the_rows_changes_nothing(tmp_path, ordinary) -> None:
    rows = [*ordinary, *rows_of(ODD.values(), "odd.jsonl")]
    shuffled = random.Random(3).sample(rows, len(rows))
    assert inspect_rows(write(tmp_path / "a.parquet", rows), "conversations", 20) == inspect_rows(
        write(tmp_path / "b.parquet", shuffled), "conversations", 20
    )


def test_a_large_table_is_read_in_batches(tmp_path, ordinary, monkeypatch) -> None:
    """All rows are searched, also those that are not in the sample; a page of the UI searches the sample."""
    monkeypatch.setattr(inspection, "SAMPLED_ROWS", 300)
    monkeypatch.setattr(row_texts, "BATCH_ROWS", 100)
    path = write(tmp_path / "rows.parquet", [*ordinary, *rows_of(ODD.values(), "odd.jsonl")])
    found = inspect_rows(path, "conversations", 30)
    assert found.searched == found.rows == len(ordinary) + len(ODD)
    assert sum(row.file == "odd.jsonl" for row in found.oddest) == len(ODD)
    page = inspect_rows(path, "conversations", 30, all_rows=False)
    sample = set(sample_rows(path, "conversations", 300)["id"].to_pylist())
    assert page.searched == 300 and {row.id for row in page.oddest} == {row.id for row in found.oddest} & sample
    assert page.longest == found.longest


@pytest.mark.parametrize(
    ("words", "odd"),
    [
        ("我的 订单 在 哪里 什么 时候 送到 可以 退货 吗 谢谢 请 告诉 客服", "Where is my order, please?"),
        ("मेरा ऑर्डर कहाँ है कब आएगा क्या वापस कर सकता हूँ धन्यवाद", "Where is my order, please?"),
        ("أين طلبي متى يصل هل يمكنني إرجاع المصباح شكرا لكم", "Где мой заказ, скажите, пожалуйста?"),
    ],
    ids=["Chinese", "Hindi", "Arabic"],
)
def test_every_script_has_odd_rows(tmp_path, words, odd) -> None:
    choose, words = random.Random(1), words.split()
    pairs = [("".join(choose.choices(words, k=8)), " ".join(choose.choices(words, k=9))) for _ in range(200)]
    path = write(tmp_path / "rows.parquet", [*rows_of(pairs, "a.jsonl"), *rows_of([(odd, odd[::-1])], "odd.jsonl")])
    assert inspect_rows(path, "conversations", 1).oddest[0].file == "odd.jsonl"


def test_an_erased_row_is_not_listed(tmp_path, ordinary) -> None:
    erased = [{**row, "id": "excluded:" + row["id"]} for row in rows_of(ODD.values(), "odd.jsonl")]
    found = inspect_rows(write(tmp_path / "rows.parquet", [*ordinary, *erased]), "conversations", 50)
    assert {row.file for row in [*found.oddest, *found.longest]} == {"ordinary.jsonl"}
    assert inspect_rows(write(tmp_path / "none.parquet", erased), "conversations", 5).to_json() == {
        "rows": len(erased),
        "searched": 0,
        "oddest": [],
        "longest": [],
    }


def test_the_sample_has_the_smallest_ids_of_the_rows_that_are_left(tmp_path) -> None:
    rows = rows_of([(f"question {number}", "yes") for number in range(50)], "a.jsonl")
    rows += [{**rows[0], "row": 99}, {**rows[1], "id": "excluded:0", "row": 100}]  # a copy, and an erased row
    path = write(tmp_path / "rows.parquet", rows)
    places = sorted((row["id"], row["row"]) for row in rows if row["row"] != 100)
    written = pq.read_table(path)
    for count in (1, 7, 50, 60):
        sample = sample_rows(path, "conversations", count)
        assert [(row["id"], row["row"]) for row in sample.to_pylist()] == places[:count]
        collected = SmallestIds(written.schema, count)  # while the table is written
        for begin in range(0, len(written), 6):
            collected.add(written.slice(begin, 6))
        assert collected.sample("conversations").equals(sample)


LONG = "An order of twelve chairs. " * 100
"""More than the texts of a sample have."""


@pytest.mark.parametrize("row_format", GOOD)
def test_the_sample_that_is_collected_is_the_one_that_is_asked(tmp_path, row_format) -> None:
    text = json.dumps(GOOD[row_format], ensure_ascii=False)
    rows = [*GOOD[row_format], *json.loads(text.replace("refund", LONG).replace("order", "ключ 👍")), "broken"]
    if row_format == "alpaca":
        earlier = [["Hi", "Hello"], ["", "x"]]
        rows.append({"instruction": "Sum up", "output": "No.", "system": "Brief!", "history": earlier})
    build(tmp_path, row_format, {"b.jsonl": rows[1:], "a.jsonl": rows[:1]})
    path = tmp_path / "out" / "rows.parquet"
    collected = SmallestIds(pq.read_schema(path), 3)
    collected.add(pq.read_table(path))
    assert collected.sample("named").equals(sample_rows(path, "named", 3))
    assert collected.sample("named").to_pylist()


def test_rows_of_every_table_have_prompt_answer_and_length(tmp_path) -> None:
    expected = {
        "alpaca": ("Hi\nHello\nSum up\nA text", "Short.", 31),
        "sharegpt": ("Hello\nBye", "Hi\nSee you", 17),
        "text": ("", "Returns are free.", 17),
        "preferences": ("Where is it?", "With us.\nNo idea.", 28),
        "unlabelled": ("Is the shop open?", "", 17),
    }
    raw = {
        "alpaca": {
            "instruction": "Sum up",
            "input": "A text",
            "output": "Short.",
            "system": "Brief!",
            "history": [["Hi", "Hello"]],
        },
        "sharegpt": {
            "conversations": [
                {"from": speaker, "value": text}
                for speaker, text in [("human", "Hello"), ("gpt", "Hi"), ("human", "Bye"), ("gpt", "See you")]
            ]
        },
        "text": {"text": "Returns are free."},
        "preferences": {"prompt": "Where is it?", "chosen": "With us.", "rejected": "No idea."},
        "unlabelled": {"instruction": "Is the shop open?"},
    }
    for name, row in raw.items():
        (tmp_path / name).mkdir()
        build(tmp_path / name, name, {"a.jsonl": [row, GOOD[name][1]]})
        rows = sample_rows(tmp_path / name / "out" / "rows.parquet", name, 10).to_pylist()
        (found,) = [row for row in rows if row["row"] == 1]
        assert (found["table"], found["file"], found["row"]) == (name, "a.jsonl", 1)
        assert (found["prompt"], found["answer"], found["characters"]) == expected[name], name
    (tmp_path / "both").mkdir()
    build_chat_tables(tmp_path / "both", {"a.jsonl": [raw["alpaca"], GOOD["alpaca"][1]]})
    rows = sample_rows(tmp_path / "both" / "out" / "rows.parquet", "conversations", 10).to_pylist()
    (found,) = [row for row in rows if row["row"] == 1]
    assert (found["table"], found["prompt"], found["answer"]) == ("alpaca", "Hi\nSum up\n\nA text", "Hello\nShort.")


def test_a_shortened_text_can_be_erased() -> None:
    """`ft erase` recognizes a text by its first characters. Fewer than it needs are not shown."""
    first = "My name is Ada Lovelace, I live at 12 St James's Square, and my order has not come. " * 2
    second = "Please ring me on 0700 900 123 after six, or ask my neighbor Mr Babbage to take the parcel for me."
    erased = ErasedTexts({}, frozenset({first, second}))
    for length in range(len(first) - 100, len(first) + 20):
        begin = first[-length:]
        erased = ErasedTexts({}, frozenset({begin, second}))
        assert set(erased.redact_text(shorten(f"{begin}\n{second}" + " x" * 200))) <= set("[forgotten]\n …x"), length
    assert shorten("short") == "short" and len(shorten("x" * 500)) == inspection.SHOWN_CHARS


@given(st.lists(st.text(alphabet="ab1", max_size=60), min_size=1, max_size=6))
@example(["aabb abab", "", "ä订单在哪里", "0x17"])
def test_the_sequences_of_a_text_are_counted(texts) -> None:
    """Against a plain definition: sequences of bytes within one text, with equal digits."""
    plain = ["".join("0" if "0" <= letter <= "9" else letter for letter in text).encode() for text in texts]
    for length in (oddness.SHORT, oddness.LONG):
        expected = [[text[begin : begin + length] for begin in range(len(text) - length + 1)] for text in plain]
        row, hashes, counts = oddness._distinct_sequences(pa.array(texts, pa.large_string()), length)
        assert counts.tolist() == [len(sequences) for sequences in expected]
        assert np.bincount(row, minlength=len(texts)).tolist() == [len(set(sequences)) for sequences in expected]
        assert len(set(hashes.tolist())) == len({sequence for sequences in expected for sequence in sequences})
