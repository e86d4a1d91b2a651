"""Near duplicates are the pairs with nine tenths of their shingles in common; finding them is not quadratic.

Instructions that rows share, and different answers, make no duplicates.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ft_pipeline.tables.dedup import near_duplicates
from ft_pipeline.tables.dedup.near_duplicates import ShingleSets, drop_unshared, enough_bits, match_sets, select_rarest
from ft_pipeline_tests.tables.helpers import build, build_chat_tables, logged_call, validate, write_jsonl


def sets_of(rows):
    shingles = np.array([shingle for row in rows for shingle in row], np.uint64)
    return ShingleSets.of_rows(shingles, np.array([len(row) for row in rows]))


def matches_of(rows, *, with_counts=False):
    """Row → the row that it is near to. with_counts: False knows of no boilerplate."""
    sets = sets_of(rows)
    numbers = np.arange(len(rows))
    frequencies = sets.frequencies()
    rare = drop_unshared(*select_rarest(sets, frequencies))
    return match_sets(numbers, numbers, sets, rare, frequencies if with_counts else np.zeros_like(frequencies), None)


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


@pytest.mark.parametrize("bits", [11, 12, 13, 14, 15])
def test_near_rows_are_found_where_different_shingles_count_as_one(monkeypatch, bits):
    """Of 11,000 shingles, hardly any or nearly all agree with another one in the bits by which they are counted."""
    monkeypatch.setattr(near_duplicates, "RARITY_BITS", bits)
    pick = random.Random(0)
    rows = [pick.sample(range(2**40), 80) for _ in range(134)]
    rows += [[*row[:-4], *pick.sample(range(2**40), 4)] for row in rows[:60]]
    assert matches_of(rows, with_counts=True) == by_comparing_all(rows)


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


TOOLS = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}}]
SHAPES = (
    *("alpaca", "sharegpt", "sharegpt with system", "chat", "traces", "preferences", "feedback"),
    *("unlabelled", "unlabelled with system", "text"),
)
ANSWERED = SHAPES[:7]


def shared_out(shapes: Sequence[str], cases: Sequence[Any]) -> list[Any]:
    """Each shape with one of the cases, in turn. The other pairs, whose cases other shapes have, are long."""
    return [
        pytest.param(shape, case, marks=() if at % len(cases) == number else pytest.mark.long)
        for at, shape in enumerate(shapes)
        for number, case in enumerate(cases)
    ]


def reasons_of(tmp_path, shape: str, rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    return validate(write_jsonl(tmp_path / "a.jsonl", rows), shape.split(" ", maxsplit=1)[0])["reasons"]


@pytest.mark.parametrize(("shape", "prompts"), shared_out(SHAPES, [(100, 1), (400, 1), (400, 25)]))
def test_rows_under_long_instructions_are_no_duplicates(tmp_path, shape, prompts):
    """200 different questions, all with one answer, under one instruction or under several."""
    length, instructions = prompts
    rows = [row_of(shape, words(-1 - at % instructions, length), words(at, 3 + at % 9), "other") for at in range(200)]
    assert reasons_of(tmp_path, shape, rows) == {}


@pytest.mark.parametrize("shape", ANSWERED)
def test_rows_with_different_answers_are_no_duplicates(tmp_path, shape):
    rows = [row_of(shape, words(-1, 100), f"{words(0, 50)} {at}?", f"Answer {at}.") for at in range(3)]
    assert reasons_of(tmp_path, shape, rows) == {}


@pytest.mark.parametrize(("shape", "length"), shared_out(ANSWERED, [4, 9, 30]))
def test_paraphrases_with_one_standard_answer_stay(tmp_path, shape, length):
    """Each question is short, or has half of its words in common with the others; the answer is long."""
    asked = [f"{words(-2, length // 2)} {words(at, length - length // 2)}" for at in range(40)]
    rows = [row_of(shape, words(-1, 3), question, words(-3, 200)) for question in asked]
    assert reasons_of(tmp_path, shape, rows) == {}


@pytest.mark.parametrize("shape", ANSWERED)
def test_near_answers_to_one_question_are_one_row(tmp_path, shape):
    """But not with another number, or with another first word: then they are different answers."""
    answer = f"Yes, {words(1, 60)}".translate(str.maketrans("0123456789", "abcdefghij")).split()
    near, number, first = (answer.copy() for _ in range(3))
    near[30], number[30], first[0] = "another", "4711", "No,"
    answers = [" ".join(some) for some in (answer, near, number, first)]
    rows = [row_of(shape, words(-1, 3), words(0, 12), text) for text in answers]
    rows.append(row_of(shape, words(-1, 3), words(5, 12), words(6, 60)))
    found = reasons_of(tmp_path, shape, rows)
    assert found == {"near_duplicate": [2]}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_question_that_changes_slightly_is_a_near_duplicate_under_a_long_instruction_too(tmp_path, shape):
    asked = [words(at, 80) for at in range(20)]
    rows = [row_of(shape, words(-1, 100), question, "other") for question in [*asked, f"{asked[3]}, please"]]
    assert reasons_of(tmp_path, shape, rows) == {"near_duplicate": [21]}


def copies_of(text: str, count: int, edits: int = 1) -> list[str]:
    """Copies of a text with other words at random places."""
    draw, copies = random.Random(text), []
    for copy in range(count):
        edited = text.split()
        for place in draw.sample(range(len(edited)), edits):
            edited[place] = f"edit{copy}"
        copies.append(" ".join(edited))
    return copies


@pytest.mark.parametrize(
    ("shape", "edited"),
    shared_out(["alpaca", "feedback", "unlabelled", "text"], [(120, 2, 1), (120, 5, 1), (120, 20, 1), (300, 8, 3)]),
)
def test_a_text_and_its_copies_are_one_row_however_many_there_are(tmp_path, shape, edited):
    """Beside texts of other words, and under an instruction that all share."""
    length, copies, edits = edited
    asked = [words(at, length) for at in range(5)]
    rows = [row_of(shape, words(-1, 30), text, "other") for text in asked]
    rows += [row_of(shape, words(-1, 30), copy, "other") for text in asked for copy in copies_of(text, copies, edits)]
    assert reasons_of(tmp_path, shape, rows) == {"near_duplicate": list(range(6, 6 + 5 * copies))}


@pytest.mark.parametrize("copies", [2, 3, 5, 50])
def test_most_copies_are_found_without_their_original(tmp_path, copies):
    """Two that are edited at the same place look like two questions under one instruction."""
    rows = [row_of("text", "", copy, "") for at in range(10) for copy in copies_of(words(at, 120), copies)]
    (reason,) = reasons_of(tmp_path, "text", rows).values()
    assert len(rows) - len(reason) <= 10 + len(rows) / 20


@pytest.mark.parametrize("copies", [1, 2, 4, 5, 20])
def test_all_copies_of_a_held_out_row_are_found(tmp_path, copies):
    """Whatever their answers."""
    text, other = words(0, 120), row_of("alpaca", "Sort this.", words(1, 50), "other")
    rows = [row_of("alpaca", "Sort this.", copy, f"label {at}") for at, copy in enumerate(copies_of(text, copies))]
    held_out = write_jsonl(tmp_path / "gold.jsonl", [row_of("alpaca", "Sort this.", text, "label"), other])
    unlike = row_of("alpaca", "Sort this.", words(2, 50), "other")
    report = validate(write_jsonl(tmp_path / "a.jsonl", [*rows, unlike]), "alpaca", against=held_out)
    assert report["reasons"] == {"train_test_overlap": list(range(1, copies + 1))}


@pytest.mark.parametrize("copies", [2, 8])
def test_no_copy_of_a_golden_row_is_trained_on(tmp_path, copies):
    """Nor of a row without digits, which the search for templates would find."""
    letters = str.maketrans("0123456789", "abcdefghij")
    texts = [words(at, 120).translate(letters) for at in range(4)]
    edited = [copy.translate(letters) for text in texts for copy in copies_of(text, copies)]
    golden, rows, other = (
        [row_of("alpaca", "Sort this.", text, "other") for text in some]
        for some in (texts, edited, [words(9, 50).translate(letters)])
    )
    files = {"gold.jsonl": golden, "train.jsonl": [*rows, *other]}
    report, _, _ = build_chat_tables(tmp_path, files, sidecars={"gold.jsonl": {"split": "test"}})
    assert report.accepted == 5


def test_a_held_out_question_hides_no_other_question_under_its_instruction(tmp_path):
    rows = [row_of("alpaca", words(-1, 200), words(at, 5), f"label {at % 3}") for at in range(30)]
    held_out = write_jsonl(tmp_path / "gold.jsonl", rows[:2])
    assert validate(write_jsonl(tmp_path / "a.jsonl", rows[2:]), "alpaca", against=held_out)["reasons"] == {}


def test_three_questions_under_each_of_many_passages_stay(tmp_path):
    rows = [
        row_of("alpaca", "Answer yes or no.", f"{words(at, 200)}\nQuestion: {words(1000 + 3 * at + number, 7)}", "yes")
        for at in range(30)
        for number in range(3)
    ]
    assert reasons_of(tmp_path, "alpaca", rows) == {}


def test_a_phrase_of_many_questions_is_no_edit(tmp_path):
    asked = [f"is it true that {words(at, 3)}" if at % 5 < 3 else words(at, 6) for at in range(100)]
    rows = [row_of("alpaca", words(-1, 200), question, "yes") for question in asked]
    assert reasons_of(tmp_path, "alpaca", rows) == {}


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def test_conversations_with_different_answers_before_a_courtesy_are_no_duplicates(tmp_path):
    rows = [
        {"messages": turns(words(at, 60), f"{words(-at, 70)} {amount} euros", "Thank you very much", "You are welcome")}
        for at in range(1, 6)
        for amount in range(4)
    ]
    assert reasons_of(tmp_path, "chat", rows) == {}


def test_different_calls_before_one_answer_are_no_duplicates(tmp_path):
    rows = []
    for amount in range(6):
        function = {"name": "refund", "arguments": f'{{"amount": {amount}}}'}
        call = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": function}]}
        result = {"role": "tool", "tool_call_id": "a", "content": "ok"}
        asked, answer = turns(words(amount // 3, 90), "Done.")
        rows.append({"messages": [asked, call, result, answer], "tools": TOOLS})
    assert reasons_of(tmp_path, "chat", rows) == {}


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
    path = write_jsonl(tmp_path / "b.jsonl", [*rows, rows[3], rows[3], rows[1]])
    (warning,) = (entry for entry in validate(path, "alpaca")["warnings"] if entry["code"] == "many_duplicates")
    beginning = f"{words(-1, 3)} {words(3, 9)}"[:50]
    assert f'(2 of them repeat b.jsonl:4: "{beginning}' in warning["message"]


def test_few_shingles_are_counted_in_a_short_table():
    assert [enough_bits(count) for count in (1, 1_000, 1 << 30)] == [7, 16, 22]
