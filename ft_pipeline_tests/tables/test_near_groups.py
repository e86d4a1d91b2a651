"""Rows that are near as a whole stay in one split; large groups are reported and do not."""

import random

from benchmarks import leaks
from ft_pipeline_tests.tables.helpers import build_chat_tables

WRITER = leaks.Writer("english", 7)


def text(name, length=60):
    return WRITER.text(random.Random(name), length)


def variants(name, count, share=0.05):
    draw = random.Random(f"variants {name}")
    return [{"instruction": WRITER.changed(text(name), share, draw), "output": f"Yes {name}."} for _ in range(count)]


def others(count):
    return [{"instruction": text(f"other {number}"), "output": f"Other {number}."} for number in range(count)]


def groups_by_answer(written):
    found = {}
    for row in written:
        found.setdefault(row["messages"][-1]["content"], set()).add(row["group"])
    return found


def test_variants_have_one_group_and_other_texts_have_their_own(tmp_path):
    rows = [row for number in range(8) for row in variants(number, 4)]
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": [*rows, *others(60)]})
    groups = groups_by_answer(written)
    assert sum(len(groups[f"Yes {number}."]) == 1 for number in range(8) if f"Yes {number}." in groups) >= 6
    assert len(set.union(*(group for answer, group in groups.items() if answer.startswith("Other")))) == sum(
        answer.startswith("Other") for answer in groups
    )
    assert not [warning for warning in report.warnings if warning.code == "large_group"]


def test_a_group_of_more_than_a_tenth_of_the_rows_is_reported_and_not_kept_together(tmp_path):
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": [*variants("one", 20), *others(60)]})
    (warning,) = (warning for warning in report.warnings if warning.code == "large_group")
    assert " rows are near alpaca/a.jsonl:" in warning.message
    assert len(groups_by_answer(written)["Yes one."]) > 1


def test_a_golden_row_is_no_part_of_a_group(tmp_path):
    golden, *rows = variants("one", 5)
    files = {"g.jsonl": [golden, *others(1)], "a.jsonl": [*rows, *others(60)[1:]]}
    _, written, set_aside = build_chat_tables(tmp_path, files, sidecars={"g.jsonl": {"split": "test"}})
    assert {row["split"] for row in written if row["file"] == "g.jsonl"} == {"test"}
    assert len(set_aside) >= 3, "a variant may be a near duplicate of another"
    assert not [row for row in written if row["file"] == "a.jsonl" and row["row"] <= 4]


def test_rows_under_one_instruction_are_not_near_by_it(tmp_path):
    """Each differs from the next one in its names alone, at several places, as siblings do."""
    tail = "Which of the classes above fits the message best? Answer only with the name of the class."
    names = [f"{chr(97 + number)}tone{chr(97 + number % 11)}mill" for number in range(16)]
    pairs = [(first, second) for first in names for second in names if first < second]
    rows = [{"instruction": f"A message of {a} about {b} and {a}: {tail}", "output": f"{a} {b}"} for a, b in pairs]
    _, written, _ = build_chat_tables(tmp_path, {"a.jsonl": rows})
    groups = groups_by_answer(written).values()
    assert len(written) > 0.9 * len(rows) and len(set.union(*groups)) > 0.9 * len(groups)
