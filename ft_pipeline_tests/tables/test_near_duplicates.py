"""Near duplicates are the pairs with nine tenths of their shingles in common; finding them is not quadratic.

Instructions that rows share, and different answers, make no duplicates.
"""

import random
from typing import Any

import numpy as np
import pytest

from ft_pipeline.tables.dedup import near_duplicates
from ft_pipeline.tables.dedup.near_duplicates import ShingleSets, drop_unshared, match_sets, select_rarest
from ft_pipeline_tests.tables.helpers import build, build_chat_tables, logged_call, validate, write_jsonl


def sets_of(rows):
    shingles = np.array([shingle for row in rows for shingle in row], np.uint64)
    return ShingleSets.of_rows(shingles, np.array([len(row) for row in rows]))


def matches_of(rows):
    """Row → the row that it is near to, without boilerplate."""
    sets = sets_of(rows)
    numbers = np.arange(len(rows))
    frequencies = sets.frequencies()
    rare = drop_unshared(*select_rarest(sets, frequencies))
    return match_sets(numbers, numbers, sets, rare, np.zeros_like(frequencies), None)


def by_comparing_all(rows):
    """Row → the first kept row before it with Jaccard >= 9/10."""
    found, kept = {}, []
    for number, row in enumerate(map(set, rows)):
        near = (other for other in kept if 10 * len(row & set(rows[other])) >= 9 * len(row | set(rows[other])))
        original = next(near, None)
        if original is None:
            kept.append(number)
        else:
            found[number] = original
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_same_pairs_are_found_as_by_comparing_all(seed):
    """Sets around the limit: copies with up to a tenth of their shingles changed, added or removed."""
    pick = random.Random(seed)
    size = pick.choice([5, 20, 60, 300])
    rows = [pick.sample(range(20 * size), size) for _ in range(6)]
    for _ in range(60):
        row = list(pick.choice(rows))
        changes = pick.randint(0, size // 8 + 1)
        removed, added = pick.choice(
            [(changes, changes // 2), (changes, 0), (0, changes), (changes // 2, changes // 2)]
        )
        for _ in range(min(removed, len(row) - 1)):
            row.pop(pick.randrange(len(row)))
        rows.append(list({*row, *pick.sample(range(20 * size), added)}))
    assert matches_of(rows) == by_comparing_all(rows)


def test_texts_built_from_the_same_parts_are_compared_with_a_few_others(monkeypatch):
    """Each of 3,000 rows shares some of its rarest shingles with hundreds of others."""
    pick = random.Random(0)
    shared = range(400)
    parts = [
        [range(1000 * slot + 20 * number, 1000 * slot + 20 * number + 12) for number in range(40)]
        for slot in range(1, 21)
    ]
    rows = [[*shared, *(shingle for slot in parts for shingle in pick.choice(slot))] for _ in range(3000)]
    compared = []
    compare = ShingleSets.compare
    monkeypatch.setattr(
        near_duplicates.ShingleSets,
        "compare",
        lambda sets, row, others, counts: compared.append(len(others)) or compare(sets, row, others, counts),
    )
    assert matches_of(rows) == {}
    assert sum(compared) < 5 * len(rows)


NOUNS = "river lamp garden ticket window engine letter carpet bottle mirror ladder basket hammer candle pillow saddle"


def words(seed: int, count: int) -> str:
    """Words like those of no other seed."""
    draw = random.Random(seed)
    return " ".join(f"{noun}{draw.randrange(999)}" for noun in draw.choices(NOUNS.split(), k=count))


def row_of(shape: str, instruction: str, question: str, answer: str) -> dict[str, Any]:
    asked = f"{instruction}\n\n{question}"
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    with_system = [{"from": "system", "value": instruction}, {"from": "human", "value": question}, turns[1]]
    return {
        "alpaca": {"instruction": instruction, "input": question, "output": answer},
        "sharegpt": {"conversations": turns},
        "sharegpt with system": {"conversations": with_system},
        "chat": {"prompt": asked, "completion": answer},
        "traces": logged_call(asked, answer),
        "preferences": {"prompt": asked, "chosen": answer, "rejected": "I do not know."},
        "feedback": {"prompt": asked, "completion": answer, "label": True},
        "unlabelled": {"instruction": instruction, "input": question},
        "unlabelled with system": {"conversations": with_system[:2]},
        "text": {"text": asked},
    }[shape]


SHAPES = (
    *("alpaca", "sharegpt", "sharegpt with system", "chat", "traces", "preferences", "feedback"),
    *("unlabelled", "unlabelled with system", "text"),
)
ANSWERED = SHAPES[:7]


def reasons_of(tmp_path, shape: str, rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    return validate(write_jsonl(tmp_path / "a.jsonl", rows), shape.split(" ", maxsplit=1)[0])["reasons"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("length", "instructions"), [(100, 1), (400, 1), (400, 25)])
def test_rows_under_long_instructions_are_no_duplicates(tmp_path, shape, length, instructions):
    """200 different questions, all with one answer, under one instruction or under several."""
    rows = [row_of(shape, words(-1 - at % instructions, length), words(at, 3 + at % 9), "other") for at in range(200)]
    assert reasons_of(tmp_path, shape, rows) == {}


@pytest.mark.parametrize("shape", ANSWERED)
def test_rows_with_different_answers_are_no_duplicates(tmp_path, shape):
    rows = [row_of(shape, words(-1, 100), f"{words(0, 50)} {at}?", f"Answer {at}.") for at in range(3)]
    assert reasons_of(tmp_path, shape, rows) == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_question_that_changes_slightly_is_a_near_duplicate_under_a_long_instruction_too(tmp_path, shape):
    asked = [words(at, 80) for at in range(20)]
    rows = [row_of(shape, words(-1, 100), question, "other") for question in [*asked, f"{asked[3]}, please"]]
    assert reasons_of(tmp_path, shape, rows) == {"near_duplicate": [21]}


def test_one_question_under_two_long_instructions_is_asked_twice(tmp_path):
    rows = [row_of("unlabelled", words(task, 100), words(at, 90), "") for task in (-1, -2) for at in range(10)]
    assert reasons_of(tmp_path, "unlabelled", rows) == {}


def test_rows_of_two_tables_under_one_long_instruction_stay(tmp_path):
    ours, theirs = (
        [row_of(shape, words(-1, 300), words(first + at, 9), f"label {at % 3}") for at in range(30)]
        for first, shape in ((0, "alpaca"), (100, "sharegpt"))
    )
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": ours}, {"b.jsonl": theirs})
    assert (report.accepted, report.set_aside) == (60, {})


def test_more_than_a_twentieth_of_duplicates_in_a_file_cause_a_warning(tmp_path):
    rows = [row_of("alpaca", words(-1, 3), words(at, 9), words(at, 4)) for at in range(19)]
    files = {"few.jsonl": [*rows, rows[0]], "many.jsonl": [*(row | {"tags": ["b"]} for row in rows[:9]), *rows[10:13]]}
    warnings = [warning for warning in build(tmp_path, "alpaca", files).warnings if warning.code == "many_duplicates"]
    assert [(warning.file, warning.rows) for warning in warnings] == [("many.jsonl", list(range(1, 13)))]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, rows[0], rows[1]])
    (warning,) = (entry for entry in validate(path, "alpaca")["warnings"] if entry["code"] == "many_duplicates")
    assert warning["rows"] == [20, 21]
    assert warning["message"].startswith("2 of 21 rows are set aside as duplicates, 0 of them near ones;")
