"""From tables to conversations: one schema, duplicates across tables, splits, contamination."""

import pyarrow.parquet as pq
import pytest

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.held_out import SuiteTexts, read_held_out
from ft_pipeline_tests.tables.helpers import build_chat_tables

PHRASE = "which of these statements best explains why photosynthesis is the foundation of most food webs"


def alpaca_rows(count, **changes):
    return [
        {"instruction": f"Question number {n} of mine", "output": f"Reply {n}: {'x' * (n % 5 + 1)}", **changes}
        for n in range(count)
    ]


def sharegpt_row(*texts):
    return {
        "conversations": [
            {"from": ("human", "gpt")[position % 2], "value": text} for position, text in enumerate(texts)
        ]
    }


def test_alpaca_rows_become_turns(tmp_path):
    rows = [
        {
            "instruction": "Sum up",
            "input": "A text",
            "output": "Short.",
            "system": "Be brief.",
            "history": [["Hi", "Hello"]],
        },
        {"instruction": "Sum up", "input": "Another text", "output": "Brief."},
        {"instruction": "No input", "input": " ", "output": "Fine."},
    ]
    _, written, _ = build_chat_tables(
        tmp_path, {"a.jsonl": rows}, {"b.jsonl": [sharegpt_row("Hello", "Hi"), sharegpt_row("Bye", "See you")]}
    )
    assert [[(turn["role"], turn["content"]) for turn in row["messages"]] for row in written] == [
        [
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello"),
            ("user", "Sum up\n\nA text"),
            ("assistant", "Short."),
        ],
        [("user", "Sum up\n\nAnother text"), ("assistant", "Brief.")],
        [("user", "No input"), ("assistant", "Fine.")],
        [("user", "Hello"), ("assistant", "Hi")],
        [("user", "Bye"), ("assistant", "See you")],
    ]
    assert [(row["table"], row["file"], row["row"]) for row in written][2:4] == [
        ("alpaca", "a.jsonl", 3),
        ("sharegpt", "b.jsonl", 1),
    ]


def test_plain_and_mixed_batches_give_the_same_messages(tmp_path):
    rows = [{"instruction": f"i{n}", "input": ["", "x", "\u200b"][n % 3], "output": "yes"} for n in range(9)]
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    _, plain, _ = build_chat_tables(tmp_path / "1", {"a.jsonl": rows})
    _, mixed, _ = build_chat_tables(
        tmp_path / "2", {"a.jsonl": [*rows, {"instruction": "z", "output": "no", "system": "s"}]}
    )
    assert [row["messages"] for row in mixed[: len(plain)]] == [row["messages"] for row in plain]


def test_duplicates_across_tables_name_their_original(tmp_path):
    rows = alpaca_rows(20)
    first = sharegpt_row(rows[0]["instruction"], rows[0]["output"])
    second = sharegpt_row(rows[1]["instruction"].upper() + "?", rows[1]["output"])
    report, _, set_aside = build_chat_tables(
        tmp_path, {"a.jsonl": rows}, {"b.jsonl": [first, second, sharegpt_row("Else", "Yes")]}
    )
    assert report.set_aside == {"duplicate": 1, "near_duplicate": 1}
    assert [(row["table"], row["row"], row["code"], row["copy_of"]) for row in set_aside] == [
        ("sharegpt", 1, "duplicate", "alpaca/a.jsonl:1"),
        ("sharegpt", 2, "near_duplicate", "alpaca/a.jsonl:2"),
    ]


def test_equal_prompts_share_a_split_and_are_reported(tmp_path):
    rows = [
        {**row, "output": f"{row['output']} {answer}"}
        for row in alpaca_rows(60)
        for answer in ("first way", "another way")
    ]
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": rows})
    splits = {}
    for row in written:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(group_splits) == 1 for group_splits in splits.values())
    assert report.conflicting_rows == 120
    assert [warning.code for warning in report.warnings] == ["conflicting_answers"]


def test_split_sizes_follow_the_shares_and_empty_splits_fail(tmp_path):
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": alpaca_rows(600)})
    assert 80 < report.splits["test"] < 160 and 80 < report.splits["validation"] < 160
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": alpaca_rows(2)})
    assert not report.checks["every_split_has_rows"].passed


@pytest.mark.parametrize(
    ("validation_share", "test_share", "empty"),
    [(0, 0, ""), (1e-9, 0, "validation"), (0, 1e-9, "test"), (1e-9, 1e-9, "validation, test")],
)
def test_each_split_with_a_share_must_have_rows(tmp_path, validation_share, test_share, empty):
    shares = DataSettings(validation_share=validation_share, test_share=test_share)
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": alpaca_rows(2)}, settings=shares)
    check = report.checks["every_split_has_rows"]
    assert (check.passed, check.message.startswith(f"no rows in {empty}:")) == (not empty, bool(empty))


def test_training_rows_similar_to_a_test_file_are_set_aside(tmp_path):
    words = " ".join(f"word{n}" for n in range(60))
    settings = DataSettings(validation_share=0, test_share=0)
    golden = [
        {"instruction": "Exactly this", "output": "Yes."},
        {"instruction": "A long one", "output": words},
        {"instruction": "Same prompt?", "output": "One."},
    ]
    train = [
        {"instruction": "exactly THIS!", "output": "yes"},
        {"instruction": "A long two", "output": words},
        {"instruction": "same prompt", "output": "Two"},
        *alpaca_rows(5),
    ]
    report, rows, set_aside = build_chat_tables(
        tmp_path, {"a.jsonl": train, "g.jsonl": golden}, sidecars={"g.jsonl": {"split": "test"}}, settings=settings
    )
    assert report.splits == {"train": 5, "validation": 0, "test": 3}
    assert {row["file"] for row in rows if row["split"] == "test"} == {"g.jsonl"}
    assert [(row["row"], row["code"], row["copy_of"]) for row in set_aside] == [
        (1, "train_test_overlap", "alpaca/g.jsonl:1"),
        (2, "train_test_overlap", "alpaca/g.jsonl:2"),
        (3, "train_test_overlap", "alpaca/g.jsonl:3"),
    ]
    table = pq.read_table(tmp_path / "alpaca" / "out" / "rows.parquet").to_pylist()
    assert {row["id"] for row in set_aside} == {
        row["id"] for row in table if row["file"] == "a.jsonl" and row["row"] <= 3
    }


def test_allowed_duplicates_do_not_leak_into_training(tmp_path):
    words = [f"word{n}" for n in range(160)]
    asked = [" ".join([*words[: 4 * n], f"other{n}", *words[4 * n + 1 :]]) for n in range(40)]
    rows = [{"instruction": text, "output": "One answer."} for text in asked]
    allow = {"a.jsonl": {"allow": ["near_duplicate", "duplicate"]}}
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": rows}, sidecars=allow)
    assert report.set_aside["train_test_overlap"] + len(written) == 40
    assert {row["split"] for row in written} <= {"validation", "test"}


def test_rows_with_a_phrase_of_the_general_suite_are_set_aside(tmp_path):
    settings = DataSettings(validation_share=0, test_share=0)
    rows = [
        {"instruction": f"Tell me: {PHRASE.upper()}, please?", "output": "Because of energy."},
        {"instruction": "What is this?", "output": f"It asks {PHRASE}."},
        {"instruction": " ".join(PHRASE.split()[:6]), "output": "Six words are not enough."},
    ]
    _, _, set_aside = build_chat_tables(
        tmp_path, {"a.jsonl": rows}, suite=SuiteTexts([f"Question: {PHRASE}?", "short"]), settings=settings
    )
    assert [(row["row"], row["code"]) for row in set_aside] == [(1, "train_test_overlap"), (2, "train_test_overlap")]


def test_two_empty_tables_give_no_conversations(tmp_path):
    report, rows, _ = build_chat_tables(tmp_path, {})
    assert (report.read, rows) == (0, [])
    assert not report.checks["every_split_has_rows"].passed


def turns(*texts):
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def test_distilled_and_text_rows_are_compared_with_heldout_rows(tmp_path):
    words = " ".join(f"word{n}" for n in range(60))
    settings = DataSettings(validation_share=0, test_share=0)
    golden = {
        "g.jsonl": [{"instruction": "Where is it?", "output": "Here."}, {"instruction": "Tell me", "output": words}]
    }
    build_chat_tables(
        tmp_path, {**golden, "a.jsonl": alpaca_rows(3)}, sidecars={"g.jsonl": {"split": "test"}}, settings=settings
    )
    held_out = read_held_out(tmp_path / "out")
    rows = [turns("WHERE is it", "Elsewhere."), turns("Tell us", words), turns("New", "x")]
    assert held_out.in_conversations(rows) == ["alpaca/g.jsonl:1", "alpaca/g.jsonl:2", None]
    assert held_out.in_texts([f"tell me {words}", "Else"]) == ["alpaca/g.jsonl:2", None]
    assert held_out.in_texts([]) == held_out.in_conversations([]) == []
