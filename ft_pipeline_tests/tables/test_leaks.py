"""Nothing held out is trained on or shown: turns inside conversations, texts, templates, other scripts, suites."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.dedup.templates import without_signs
from ft_pipeline.tables.dedup.tokens import tokenize, words_of
from ft_pipeline.tables.held_out import MIN_STANDARD_PROMPTS, read_held_out
from ft_pipeline.tables.leaks import ANSWER, MIN_ANSWER_WORDS, MIN_QUESTION_WORDS, QUESTION, HeldOutTurns
from ft_pipeline_tests.tables.helpers import build_chat_tables

ALL_TRAIN = DataSettings(validation_share=0, test_share=0)
GOLDEN = {"g.jsonl": {"split": "test"}}
NOUNS = ["river", "lamp", "garden", "ticket", "window", "engine", "letter", "carpet", "bottle", "mirror", "ladder"]


def sentence(seed, length):
    """A sentence that is near no sentence of another seed."""
    return " ".join(random.Random(seed).choices(NOUNS, k=length)) + f" {''.join(random.Random(seed).sample(NOUNS, 3))}."


def alpaca(question, answer):
    return {"instruction": question, "output": answer}


def sharegpt(*texts):
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[at % 2], "value": text} for at, text in enumerate(texts)]}


def turns(*texts):
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def set_aside_rows(tmp_path, golden, alpaca_rows=(), sharegpt_rows=(), **options):
    """The rows that are set aside, as (table, row, code), if `golden` are the test rows."""
    golden = [*golden, alpaca("Nothing like it", sentence(-2, 9))]
    files = {"g.jsonl": golden, "a.jsonl": [*alpaca_rows, alpaca("Unrelated matter", sentence(-1, 9))]}
    chats = {"b.jsonl": [*sharegpt_rows, sharegpt("Something else", "Of course, gladly."), sharegpt("Bye", "Adieu.")]}
    options = {"sidecars": GOLDEN, "settings": ALL_TRAIN, **options}
    _, _, set_aside = build_chat_tables(tmp_path, files, chats, **options)
    return [(row["table"], row["row"], row["code"]) for row in set_aside]


def test_held_out_rows_inside_longer_conversations_are_found(tmp_path):
    long_answer, long_question = sentence(1, 14), sentence(2, 9)
    golden = [
        alpaca("Where can I park?", "Behind the hall."),
        alpaca("A short one", long_answer),
        alpaca(long_question, "Yes."),
    ]
    chats = [
        sharegpt("Hello", "Hi, how can I help?", "WHERE can I park??", "Use the yard."),
        sharegpt("Hello there", "Hi.", "And?", f"As I said: {long_answer} Anything else?"),
        sharegpt("Good day", "Hi.", f"My mother asks: {long_question} Do you know?", "No."),
        sharegpt("Where can I eat?", "In the hall."),
    ]
    assert set_aside_rows(tmp_path, golden, sharegpt_rows=chats) == [
        ("sharegpt", number, "train_test_overlap") for number in (1, 2, 3)
    ]


def test_texts_that_contain_held_out_rows_are_found(tmp_path):
    golden = [alpaca("Where can I park?", "Behind the main hall."), alpaca("How?", sentence(3, 14))]
    set_aside_rows(tmp_path, golden)
    held_out = read_held_out(tmp_path / "out")
    texts = [
        "A log.\n\nCustomer: where can I park?\n\nAgent: Behind the main hall!\n\nMore.",
        "Where can I park? Nobody knows.",
        "You park behind the main hall.",
        f"It says {sentence(3, 14).upper()}",
        sentence(4, 14),
    ]
    assert held_out.in_texts(texts) == ["alpaca/g.jsonl:1", None, None, "alpaca/g.jsonl:2", None]


def test_short_questions_of_the_suites_are_found_as_whole_turns(tmp_path):
    questions = ["Which planet is red?", "Is it?"]
    rows = [alpaca("which planet is RED", "Mars."), alpaca("Which planet is red and small?", "Mars, I think.")]
    chats = [sharegpt("Hi", "Hello", "Which planet is red?", "Mars."), sharegpt("So", "What?", "Is it?", "It is.")]
    assert set_aside_rows(tmp_path, [alpaca("x", "y")], rows, chats, questions=questions) == [
        ("alpaca", 1, "train_test_overlap"),
        ("sharegpt", 1, "train_test_overlap"),
    ]


@pytest.mark.parametrize(
    ("question", "answer", "asked", "answered"),
    [
        ("मेरा पार्सल अभी तक नहीं आया", "कृपया अपना ऑर्डर नंबर भेजें", "मेरा पार्सल अभी तक नहीं आया?", "देखते हैं।"),
        ("என் பொட்டலம் இன்னும் வரவில்லை", "உங்கள் எண்ணை அனுப்பவும்", "என் பொட்டலம் இன்னும் வரவில்லை!", "பார்க்கிறோம்."),
        ("我的包裹还没有到达怎么办", "请把订单号发给我", "我的包裹还没有到达怎么办？", "好的。"),
        ("พัสดุของฉันยังมาไม่ถึง", "กรุณาส่งหมายเลข", "พัสดุของฉันยังมาไม่ถึง", "ได้"),
    ],
)
def test_turns_in_other_scripts_are_found(tmp_path, question, answer, asked, answered):
    chats = [sharegpt("नमस्ते 您好", "Hi.", asked, answered)]
    assert set_aside_rows(tmp_path, [alpaca(question, answer)], sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap")
    ]


def test_a_long_turn_inside_a_turn_without_spaces_is_found(tmp_path):
    question = "我上周在你们的网上商店买的蓝色水壶还没有到达怎么办"
    chats = [sharegpt("您好", "您好。", f"我朋友问{question}请回答", "好的。")]
    assert set_aside_rows(tmp_path, [alpaca(question, "请把订单号发给我")], sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap")
    ]


TEMPLATES = [
    ("Where is my order {}?", "Order {} left our warehouse on Monday and should arrive within three working days."),
    ("Please cancel order {} for me", "Order {} is cancelled; you get a confirmation by mail in a few minutes."),
    ("The parcel for invoice {} is damaged", "I am sorry. Please send photos of the parcel for invoice {} today."),
    ("Can I pay invoice {} in two parts?", "Yes, invoice {} can be paid in two parts if you ask before it is due."),
    ("I did not get a receipt for payment {}", "Here is the receipt for payment {}; keep it for your records."),
    ("Change the address of delivery {}", "Delivery {} goes to the new address if it has not left the depot yet."),
    ("Which courier brings shipment {}?", "Shipment {} is brought by our own courier between nine and five."),
    ("Why was card payment {} refused?", "Payment {} was refused by your bank; please call them or use another card."),
]


def masked(text):
    return " ".join("#" if any(char.isdigit() for char in word) else word for word in words_of(text))


def test_rows_that_differ_in_an_order_number_are_in_one_split(tmp_path):
    rows = [
        alpaca(question.format(10_000 + 37 * number), answer.format(10_000 + 37 * number))
        for number in range(40)
        for question, answer in TEMPLATES
    ]
    shares = DataSettings(validation_share=0.1, test_share=0.3)
    report, written, _ = build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=shares)
    answers = {split: {masked(row["messages"][-1]["content"]) for row in written if row["split"] == split}
               for split in ("train", "validation", "test")}  # fmt: skip
    assert answers["train"] and answers["test"]
    assert answers["train"].isdisjoint(answers["test"] | answers["validation"])
    assert report.accepted == len(rows)


def test_a_template_with_another_number_or_name_is_found(tmp_path):
    golden = [
        alpaca("Hello, my name is Anna Schmidt and the parcel 10432 that you sent has not arrived at all", "Sorry."),
        alpaca("Track parcel 10432", "Soon."),
    ]
    chats = [
        sharegpt("Hi", "Hi.", "my name is Bo Li and the parcel 99817 that you sent has not arrived at all", "Sorry!"),
        sharegpt("Hi!", "Hi.", "track parcel 555123", "Later."),
        sharegpt("Hey", "Hi.", "Track parcels", "Later on."),
    ]
    assert set_aside_rows(tmp_path, golden, sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap"),
        ("sharegpt", 2, "train_test_overlap"),
    ]


def test_a_standard_answer_is_no_leak(tmp_path):
    standard = "Thank you for your message; a colleague from our team will call you back within one working day."
    rows = [alpaca(sentence(100 + number, 6), standard) for number in range(MIN_STANDARD_PROMPTS)]
    golden = [alpaca("Who will help me with this?", standard)]
    assert set_aside_rows(tmp_path, golden, rows, settings=ALL_TRAIN) == []
    held_out = read_held_out(tmp_path / "out")
    assert held_out.in_texts([standard, f"Who will help me with this? {standard}"]) == [None, "alpaca/g.jsonl:1"]


def test_an_answer_of_two_prompts_is_a_leak(tmp_path):
    answer = "Thank you for your message; a colleague from our team will call you back within one working day."
    rows = [alpaca(sentence(200 + number, 6), answer) for number in range(MIN_STANDARD_PROMPTS - 1)]
    found = set_aside_rows(tmp_path, [alpaca("Who will help me with this?", answer)], rows)
    assert found == [("alpaca", number, "train_test_overlap") for number in range(1, MIN_STANDARD_PROMPTS)]


def test_pairs_and_distilled_rows_are_compared_in_every_turn(tmp_path):
    set_aside_rows(tmp_path, [alpaca("Where can I park?", sentence(5, 14))])
    held_out = read_held_out(tmp_path / "out")
    rows = [
        turns("Hi", "Hello", "where can I park", "There."),
        turns("Anything", f"Well, {sentence(5, 14)}"),
        turns("Where can I swim?", "In the lake."),
    ]
    assert held_out.in_conversations(rows) == ["alpaca/g.jsonl:1", "alpaca/g.jsonl:1", None]


# Splits.


def by_id(rows):
    return {row["id"]: row["split"] for row in rows}


def check_that_no_test_row_moved(before, after):
    """A validation row may be set aside, if a new test row is near it."""
    splits = by_id(after)
    assert sum(split == "test" for split in by_id(before).values()) > 15
    for row_id, split in by_id(before).items():
        assert splits.get(row_id) == split or (split == "validation" and row_id not in splits) or split == "train"


def test_a_file_that_sorts_first_moves_no_held_out_row(tmp_path):
    rows = [alpaca(f"{sentence(300 + number, 7)} Why so?", sentence(900 + number, 40)) for number in range(150)]
    _, before, _ = build_chat_tables(tmp_path, {"m.jsonl": rows})
    copies = [alpaca(f"{row['instruction']} Please tell me.", row["output"]) for row in rows]
    copies += [alpaca(row["instruction"].upper() + "!", row["output"]) for row in rows]
    _, after, _ = build_chat_tables(tmp_path, {"a.jsonl": copies, "m.jsonl": rows})
    check_that_no_test_row_moved(before, after)
    texts = {row["messages"][1]["content"] for row in before if row["split"] != "train"}
    assert texts.isdisjoint(row["messages"][1]["content"] for row in after if row["split"] == "train")


def test_rows_of_another_table_move_no_held_out_row(tmp_path):
    rows = [sharegpt(f"{sentence(1300 + number, 7)} Why so?", sentence(1900 + number, 40)) for number in range(150)]
    _, before, _ = build_chat_tables(tmp_path, {}, {"m.jsonl": rows})
    turns_of = [[turn["value"] for turn in row["conversations"]] for row in rows]
    copies = [alpaca(f"{question} Please tell me.", answer) for question, answer in turns_of]
    copies += [alpaca(question.upper() + "!", answer) for question, answer in turns_of]
    _, after, _ = build_chat_tables(tmp_path, {"a.jsonl": copies}, {"m.jsonl": rows})
    check_that_no_test_row_moved(before, after)
    texts = {row["messages"][1]["content"] for row in before if row["split"] != "train"}
    assert texts.isdisjoint(row["messages"][1]["content"] for row in after if row["split"] == "train")


@pytest.mark.parametrize("golden_test", ["only", "added"])
def test_golden_files_share_no_prompt_with_other_splits(tmp_path, golden_test):
    rows = [alpaca(f"{sentence(400 + number, 7)} Why so?", sentence(800 + number, 9)) for number in range(120)]
    golden = [alpaca(row["instruction"], f"Another answer. {number}") for number, row in enumerate(rows[::2])]
    shares = DataSettings(validation_share=0.2, test_share=0.2, golden_test=golden_test)
    files = {"a.jsonl": rows, "g.jsonl": golden}
    report, written, set_aside = build_chat_tables(tmp_path, files, sidecars=GOLDEN, settings=shares)
    prompts = [row["messages"][0]["content"] for row in written]
    assert len(prompts) == len(set(prompts))
    assert {row["file"] for row in written if row["split"] == "test"} >= {"g.jsonl"}
    assert len(set_aside) == 60 and {row["code"] for row in set_aside} == {"train_test_overlap"}
    if golden_test == "only":
        assert report.splits["test"] == len(golden)
    else:
        assert report.splits["test"] > len(golden)


def test_a_larger_test_share_moves_rows_only_towards_test(tmp_path):
    rows = [alpaca(f"{sentence(500 + number, 7)} Why so?", sentence(700 + number, 9)) for number in range(200)]
    splits = []
    for test_share in (0.1, 0.3):
        shares = DataSettings(validation_share=0.1, test_share=test_share)
        splits.append(by_id(build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=shares)[1]))
    assert all(splits[1][row_id] == "test" for row_id, split in splits[0].items() if split == "test")


# The index equals a search word by word.

WORDS = st.sampled_from(["a", "b", "c", "d"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=30).map(" ".join), min_size=1, max_size=6)


def naive_search(texts, held_out):
    """The first held-out text that each text contains as a sequence of words."""
    found = []
    for text in texts:
        owners = [
            owner
            for owner, (turn, minimum) in enumerate(held_out)
            if len(turn.split()) >= minimum and f" {turn} " in f" {text} "
        ]
        found.append(min(owners, default=-1))
    return found


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_long_turns_are_found_like_in_a_search_word_by_word(texts, held_out):
    collected = HeldOutTurns()
    roles = np.array([(QUESTION, ANSWER)[number % 2] for number in range(len(held_out))], np.uint8)
    several = np.zeros(len(held_out), dtype=bool)
    collected.add(tokenize(held_out), np.arange(len(held_out)), roles, several)
    index = collected.index()
    count = len(texts)
    tokens = tokenize(texts)
    found = index.search(tokens, without_signs(tokens), np.arange(count), np.zeros(count, dtype=bool), count)
    minima = [(MIN_QUESTION_WORDS, MIN_ANSWER_WORDS)[number % 2] for number in range(len(held_out))]
    assert found.tolist() == naive_search(texts, list(zip(held_out, minima, strict=True)))
