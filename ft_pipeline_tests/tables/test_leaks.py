"""Nothing held out is trained on or shown: turns inside conversations, texts, templates, other scripts, suites."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables import languages
from ft_pipeline.tables.dedup.tokens import tokenize, words_of
from ft_pipeline.tables.dedup.windows import MAX_TURNS, WORDS
from ft_pipeline.tables.held_out import (
    MIN_ANSWERS,
    MIN_COMMON_PAIRS,
    MIN_COMMON_PROMPTS,
    SuiteTexts,
    _after_instructions,
    read_held_out,
)
from ft_pipeline.tables.leaks import ANSWER, LEAST_WORDS, MIN_ANSWER_WORDS, QUESTION, HeldOutTurns, LeakIndex
from ft_pipeline_tests.tables.helpers import build_chat_tables

ALL_TRAIN = DataSettings(validation_share=0, test_share=0)
GOLDEN = {"g.jsonl": {"split": "test"}}
NOUNS = ["river", "lamp", "garden", "ticket", "window", "engine", "letter", "carpet", "bottle", "mirror", "ladder"]


@pytest.fixture(autouse=True, scope="module")
def _languages_of_few_rows():
    """What languages the rows are in matters to no test here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(languages, "SAMPLED_ROWS", 2)
        yield


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
    assert set_aside_rows(tmp_path, [alpaca("x", "y")], rows, chats, suite=SuiteTexts(questions)) == [
        ("alpaca", 1, "train_test_overlap"),
        ("sharegpt", 1, "train_test_overlap"),
    ]


SCRIPTS = [
    ("मेरा पार्सल अभी तक नहीं आया", "कृपया अपना ऑर्डर नंबर भेजें", "मेरा पार्सल अभी तक नहीं आया?", "देखते हैं।"),
    ("என் பொட்டலம் இன்னும் வரவில்லை", "உங்கள் எண்ணை அனுப்பவும்", "என் பொட்டலம் இன்னும் வரவில்லை!", "பார்க்கிறோம்."),
    ("我的包裹还没有到达怎么办", "请把订单号发给我", "我的包裹还没有到达怎么办？", "好的。"),
    ("พัสดุของฉันยังมาไม่ถึง", "กรุณาส่งหมายเลข", "พัสดุของฉันยังมาไม่ถึง", "ได้"),
]


def test_turns_in_other_scripts_are_found(tmp_path):
    golden = [alpaca(question, answer) for question, answer, _, _ in SCRIPTS]
    chats = [sharegpt("नमस्ते 您好", "Hi.", asked, answered) for _, _, asked, answered in SCRIPTS]
    assert set_aside_rows(tmp_path, golden, sharegpt_rows=chats) == [
        ("sharegpt", number, "train_test_overlap") for number in range(1, len(SCRIPTS) + 1)
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
        alpaca("Please tell me when the lamp that you sent with order 20518 is here", "Tomorrow."),
    ]
    chats = [
        sharegpt("Hi", "Hi.", "my name is Bo Li and the parcel 99817 that you sent has not arrived at all", "Sorry!"),
        sharegpt("Hi!", "Hi.", "track parcel 555123", "Later."),
        sharegpt("Hey", "Hi.", "Track parcels", "Later on."),
        sharegpt("Yo", "Hi.", "Now tell me when the lamp that you sent with order 99817 is here", "Never."),
    ]
    assert set_aside_rows(tmp_path, golden, sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap"),
        ("sharegpt", 2, "train_test_overlap"),
        ("sharegpt", 4, "train_test_overlap"),
    ]


def test_a_standard_answer_is_no_leak(tmp_path):
    standard = "Thank you for your message; a colleague from our team will call you back within one working day."
    rows = [alpaca(sentence(100 + number, 6), standard) for number in range(MIN_COMMON_PROMPTS)]
    golden = [alpaca("Who will help me with this?", standard)]
    assert set_aside_rows(tmp_path, golden, rows, settings=ALL_TRAIN) == []
    held_out = read_held_out(tmp_path / "out")
    assert held_out.in_texts([standard, f"Who will help me with this? {standard}"]) == [None, "alpaca/g.jsonl:1"]


def test_an_answer_of_two_prompts_is_a_leak(tmp_path):
    answer = "Thank you for your message; a colleague from our team will call you back within one working day."
    rows = [alpaca(sentence(200 + number, 6), answer) for number in range(MIN_COMMON_PROMPTS - 1)]
    found = set_aside_rows(tmp_path, [alpaca("Who will help me with this?", answer)], rows)
    assert found == [("alpaca", number, "train_test_overlap") for number in range(1, MIN_COMMON_PROMPTS)]


def test_pairs_and_distilled_rows_are_compared_in_every_turn(tmp_path):
    set_aside_rows(tmp_path, [alpaca("Where can I park?", sentence(5, 14))])
    held_out = read_held_out(tmp_path / "out")
    rows = [
        turns("Hi", "Hello", "where can I park", "There."),
        turns("Anything", f"Well, {sentence(5, 14)}"),
        turns("Where can I swim?", "In the lake."),
    ]
    assert held_out.in_conversations(rows) == ["alpaca/g.jsonl:1", "alpaca/g.jsonl:1", None]


LONG = "My sister Anna moved to Bristol in May and the blue kettle that you sent her leaks since the first day"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LONG.lower(), marks=pytest.mark.long),
        LONG.upper(),
        pytest.param(LONG.replace(" Bristol", "\nBristol"), marks=pytest.mark.long),
        LONG.replace("Anna", "**Anna**"),
        f"My friend wrote: \u201c{LONG}\u201d, and now?",
        pytest.param(LONG.replace("first day", "second week"), marks=pytest.mark.long),
        LONG.replace("Anna", "Beate").replace("Bristol", "Linz"),
    ],
)
def test_case_markup_lines_and_a_few_words_do_not_hide_a_long_turn(tmp_path, text):
    chats = [sharegpt("Hi", "Hi.", text, "I see.")]
    assert set_aside_rows(tmp_path, [alpaca(LONG, "Sorry.")], sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap")
    ]


@pytest.mark.parametrize(
    "asked",
    [
        *('"Where can I park?"', "Where, can I park"),
        *(pytest.param(asked, marks=pytest.mark.long) for asked in ("**where can I park**", "- Where can I park")),
    ],
)
def test_signs_around_a_short_question_do_not_hide_it(tmp_path, asked):
    chats = [sharegpt("Hi", "Hi.", asked, "Use the yard.")]
    assert set_aside_rows(tmp_path, [alpaca("Where can I park?", "Behind.")], sharegpt_rows=chats) == [
        ("sharegpt", 1, "train_test_overlap")
    ]


@pytest.mark.parametrize(
    ("words", "is_leak"),
    [(30, False), (40, True), *(pytest.param(*case, marks=pytest.mark.long) for case in ((20, False), (65, True)))],
)
def test_half_of_a_long_answer_is_a_leak(tmp_path, words, is_leak):
    answer = " ".join(random.Random(1).sample([f"{first}{last}" for first in NOUNS for last in NOUNS], 65))
    chats = [sharegpt("Anything new", f"Well: {' '.join(answer.split()[:words])}")]
    found = set_aside_rows(tmp_path, [alpaca("A long one", answer)], sharegpt_rows=chats)
    assert found == ([("sharegpt", 1, "train_test_overlap")] if is_leak else [])


def test_a_short_question_is_found_with_an_answer_of_one_word(tmp_path):
    set_aside_rows(tmp_path, [alpaca("Which planet is red?", "Mars.")])
    held_out = read_held_out(tmp_path / "out")
    texts = ["FAQ\n\nQ: Which planet is red?\nA: Mars.", "Which planet is red? Venus.", "Mars is red."]
    assert held_out.in_texts(texts) == ["alpaca/g.jsonl:1", None, None]


def test_answers_of_a_suite_are_found_with_their_questions(tmp_path):
    suite = SuiteTexts.of([("On which continent is Egypt?", "Africa")], ["Half a \ud800 character"], ["A text."])
    build_chat_tables(tmp_path, {}, suite=suite)
    held_out = read_held_out(tmp_path / "out")
    texts = ["Question: On which continent is Egypt?\nAnswer: Africa", "On which continent is Egypt? Asia"]
    assert held_out.in_texts(texts) == ["question 1 of the evaluation suites", None]


def test_an_instruction_that_a_suite_repeats_is_not_its_content(tmp_path):
    instruction = "Classify the sentiment of the following short review of a movie as positive or negative or mixed:"
    suite = SuiteTexts.of([(f"{instruction} {sentence(600 + number, 9)}", "") for number in range(5)], [], [])
    rows = [alpaca(f"{instruction} {sentence(650 + number, 9)}", "positive") for number in range(40)]
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=ALL_TRAIN, suite=suite)
    assert report.set_aside == {}


@pytest.mark.parametrize(
    "turns_of_row",
    [
        lambda n: (f"Hello {sentence(n, 6)}", "Hello, thank you for writing to us today. How may I help you with it?",
                   sentence(n + 5000, 9), sentence(n + 6000, 20)),
        lambda n: (sentence(n, 9), sentence(n + 5000, 20), "Thank you very much!", "You are very welcome."),
        lambda n: (sentence(n, 9), sentence(n + 5000, 20), "Please go on with one more chapter now.", sentence(n, 30)),
    ],
)  # fmt: skip
def test_stock_turns_of_conversations_are_no_leaks(tmp_path, turns_of_row):
    report, _, _ = build_chat_tables(tmp_path, {}, {"b.jsonl": [sharegpt(*turns_of_row(7 * n)) for n in range(200)]})
    assert report.set_aside == {} and report.splits["train"] > 80


def test_names_in_short_questions_are_their_content(tmp_path):
    cities = ["Nairobi", "Oslo", "Lima", "Hanoi", "Accra", "Riga", "Cairo", "Tunis", "Seoul", "Quito", "Doha", "Baku"]
    rows = [alpaca(f"How many people live in {city}?", sentence(n, 6)) for n, city in enumerate(cities)]
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": rows})
    assert report.set_aside == {}


def test_templates_can_be_switched_off(tmp_path):
    rows = [alpaca(f"Where is order {number} now?", sentence(number, 9)) for number in range(10_000, 10_100)]
    apart = DataSettings(validation_share=0.2, test_share=0.2, group_templates=False)
    report, _, _ = build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=apart)
    assert report.set_aside == {} and min(report.splits.values()) > 5


OPENERS = [sentence(300 + number, 8) for number in range(12)]
GREETINGS = ["Hi Tom, ", "Good morning! ", "Hello there, quick one: ", "One more thing. "]


@pytest.mark.parametrize("copies", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 3)), 8])
def test_a_row_is_found_however_many_conversations_contain_it(tmp_path, copies):
    """With a greeting before its question. Sequences that three prompts share are common, but not these."""
    question, answer = sentence(11, 16), sentence(12, 28)
    chats = [
        sharegpt(OPENERS[n], f"Sure, {sentence(n, 5)}", GREETINGS[n % 4] + question, answer) for n in range(copies)
    ]
    assert len(set_aside_rows(tmp_path, [alpaca(question, answer)], sharegpt_rows=chats)) == copies
    texts = [f"Anna: Dear all. {question}\nOtto: {answer}", f"Anna: {answer}"]
    assert read_held_out(tmp_path / "out").in_texts(texts)[0] == "alpaca/g.jsonl:1"


AROUND = [
    ("Answer the question.\n", ""),
    ("Beantworte die Frage.\n", ""),
    ("Q: ", ""),
    ("Hi! ", " Thanks"),
    ("Please tell me: ", ""),
]
OF_SUITES = [
    ("What is the capital of Kenya?", "Nairobi"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("肯尼亚的首都是哪个城市?", "内罗毕"),
    ("केन्या की राजधानी क्या है?", "नैरोबी"),
]


@pytest.mark.parametrize(
    ("question", "answer", "before", "after"),
    [  # each question, and each text around it; the other pairs are long
        pytest.param(*pair, *around, marks=() if number % 4 == at % 4 else pytest.mark.long)
        for at, pair in enumerate(OF_SUITES)
        for number, around in enumerate(AROUND)
    ],
)
def test_a_short_question_of_a_suite_is_found_with_its_answer_in_the_next_turn(
    tmp_path, question, answer, before, after
):
    asked = f"{before}{question}{after}"
    found = set_aside_rows(
        tmp_path,
        [],
        [alpaca(asked, f"{answer}.")],
        [sharegpt("Hello, are you there?", "Yes.", asked, f"{answer}, as far as I know.")],
        suite=SuiteTexts([question], [answer]),
    )
    assert found == [("alpaca", 1, "train_test_overlap"), ("sharegpt", 1, "train_test_overlap")]
    held_out = read_held_out(tmp_path / "out")
    assert held_out.in_conversations([turns(asked, answer), turns(asked, "No idea.")])[0] is not None


def test_choices_between_a_question_and_its_answer_hide_nothing(tmp_path):
    set_aside_rows(tmp_path, [], suite=SuiteTexts(["What is the capital of Kenya?"], ["Nairobi"]))
    text = "What is the capital of Kenya?\n(A) Mombasa (B) Kisumu (C) Nakuru (D) Eldoret (E) Thika\nAnswer: Nairobi"
    assert read_held_out(tmp_path / "out").in_texts([text]) == ["question 1 of the evaluation suites"]


@pytest.mark.parametrize("shared", [pytest.param(26, marks=pytest.mark.long), 39])
def test_held_out_answers_that_begin_alike_are_each_found(tmp_path, shared):
    """The parts that two held-out turns share count for both."""
    beginning = sentence(20, shared - 2).rstrip(".")
    first, second = f"{beginning} {sentence(21, 90)}", f"{beginning} {sentence(22, 24)}"
    golden = [alpaca("Alpha question one", first), alpaca("Beta question two", second)]
    chats = [sharegpt(OPENERS[0], "Hello", "What now, my friend?", second)]
    assert set_aside_rows(tmp_path, golden, sharegpt_rows=chats) == [("sharegpt", 1, "train_test_overlap")]
    (tmp_path / "again").mkdir()
    golden = [alpaca("Alpha question one", first), alpaca("Beta question two", beginning)]
    chats = [sharegpt(OPENERS[0], "Hello", "What now, my friend?", beginning)]
    assert set_aside_rows(tmp_path / "again", golden, sharegpt_rows=chats) == [("sharegpt", 1, "train_test_overlap")]


def test_an_answer_is_found_although_many_held_out_answers_end_alike(tmp_path):
    """Stock sentences that held-out turns share are no part of what must be found."""
    ending = f"{sentence(30, 40)} {sentence(31, 30)}"
    answers = [f"{sentence(400 + n, 26)} {ending}" for n in range(40)]
    golden = [alpaca(sentence(500 + n, 7), answer) for n, answer in enumerate(answers)]
    chats = [sharegpt(OPENERS[n], "Hello", f"{OPENERS[n]} Now?", answers[n]) for n in range(2)]
    chats += [
        sharegpt(OPENERS[n], "Hello", f"{OPENERS[n]} Now?", f"{sentence(600 + n, 26)} {ending}") for n in (2, 3, 4)
    ]
    found = set_aside_rows(tmp_path, golden, sharegpt_rows=chats)
    assert found == [("sharegpt", 1, "train_test_overlap"), ("sharegpt", 2, "train_test_overlap")]


def test_a_held_out_conversation_of_short_turns_is_found_when_it_goes_on(tmp_path):
    lamp = [
        "My lamp broke",
        "Which lamp was it?",
        "The blue one",
        "When did you buy it?",
        "Last May",
        "A new one comes.",
    ]
    more = ["Great, thanks", "You are welcome, anything else?", "Do you ship to Norway", "Yes, in five days."]
    golden = {"g.jsonl": [sharegpt(*lamp), sharegpt("Nothing like it", sentence(-2, 9))]}
    train = [sharegpt(*lamp, *more), sharegpt("My lamp broke", "Which lamp was it?", *more), sharegpt("Bye", "Adieu.")]
    _, _, set_aside = build_chat_tables(tmp_path, {}, {**golden, "t.jsonl": train}, sidecars=GOLDEN, settings=ALL_TRAIN)
    assert [(row["file"], row["row"], row["code"]) for row in set_aside] == [("t.jsonl", 1, "train_test_overlap")]


@pytest.mark.parametrize(
    ("courtesy", "reply"),
    [
        ("Thank you very much!", "You are welcome."),
        ("Can you give me an example?", None),
        ("谢谢你的帮助", None),
        ("बहुत बहुत धन्यवाद", None),
    ],
)
def test_one_held_out_courtesy_does_not_empty_the_conversations(tmp_path, courtesy, reply):
    chats = [
        sharegpt(sentence(700 + n, 9), sentence(1000 + n, 20), courtesy, reply or sentence(1300 + n, 9))
        for n in range(60)
    ]
    assert set_aside_rows(tmp_path, [alpaca(courtesy, reply or "Gladly.")], sharegpt_rows=chats) == []


def test_a_golden_row_takes_no_test_row_of_another_file_away(tmp_path):
    rows = [alpaca(f"{sentence(2000 + n, 9)} Why?", sentence(3000 + n, 30)) for n in range(40)]
    shares = DataSettings(validation_share=0.2, test_share=0.3, golden_test="added")
    _, before, _ = build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=shares)
    tests = {row["row"] for row in before if row["split"] == "test"}
    near = [
        {**rows[number - 1], "instruction": rows[number - 1]["instruction"] + " Now?"} for number in sorted(tests)[:3]
    ]
    (tmp_path / "again").mkdir()
    _, after, _ = build_chat_tables(
        tmp_path / "again", {"a.jsonl": rows, "g.jsonl": near}, sidecars=GOLDEN, settings=shares
    )
    assert tests <= {row["row"] for row in after if row["split"] == "test" and row["file"] == "a.jsonl"}


def test_reasoning_shows_a_held_out_answer_too(tmp_path):
    set_aside_rows(tmp_path, [alpaca("Where can I park?", sentence(5, 14))])
    held_out = read_held_out(tmp_path / "out")
    answer = {"role": "assistant", "content": "There.", "reasoning_content": f"It says: {sentence(5, 14)}"}
    assert held_out.in_conversations([[{"role": "user", "content": "Hi"}, answer]]) == ["alpaca/g.jsonl:1"]


def json_record(seed):
    draw = random.Random(seed)
    fields = {name: " ".join(draw.choices(NOUNS, k=3)) for name in ("subject", "customer", "größe", "message")}
    return json.dumps({**fields, "order": 10_000 + seed}, indent=2)


def lines(seed):
    return "\n".join(" ".join(random.Random(100 * seed + line).choices(NOUNS, k=5)) for line in range(4))


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (json_record, {}),
        (lines, {"indent": 2}),
        (json_record, {"ensure_ascii": False}),
        pytest.param(lines, {}, marks=pytest.mark.long),
        pytest.param(json_record, {"indent": 2}, marks=pytest.mark.long),
        pytest.param(lines, {"ensure_ascii": False}, marks=pytest.mark.long),
    ],
)
def test_held_out_texts_with_line_breaks_are_found_in_json(tmp_path, question, options):
    """In JSON, a line break is a backslash and an n, which is no part of the word after it."""
    asked = [(question(seed), sentence(500 + seed, 4)) for seed in range(80)]
    logs = [json.dumps({"prompt": text, "completion": answer}, **options) for text, answer in asked]
    found = set_aside_rows(
        tmp_path,
        [alpaca(*pair) for pair in asked],
        [alpaca(f"Read log {sentence(seed, 6)}", log) for seed, log in enumerate(logs)],
    )
    assert len(found) >= 78
    held_out = read_held_out(tmp_path / "out")
    assert sum(name is not None for name in held_out.in_texts([json.dumps({"log": log}) for log in logs])) >= 78


def test_held_out_rows_in_json_are_found_in_plain_text(tmp_path):
    golden = [alpaca(json.dumps({"text": lines(seed)}), "Yes.") for seed in range(80)]
    plain = [alpaca(f"Do you know this?\n{lines(seed)}", sentence(seed, 6)) for seed in range(80)]
    assert len(set_aside_rows(tmp_path, golden, plain)) >= 78


def test_arguments_of_tool_calls_show_a_held_out_answer_too(tmp_path):
    set_aside_rows(tmp_path, [alpaca("Where can I park?", sentence(5, 14)), alpaca("And at night?", sentence(6, 14))])
    held_out = read_held_out(tmp_path / "out")
    calls = [
        {"id": "1", "name": "log", "arguments": '{"at": 3}'},
        {"id": "2", "name": "note", "arguments": json.dumps({"text": sentence(6, 14)})},
    ]
    conversations = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": calls}],
    ]
    assert held_out.in_conversations(conversations) == [None, "alpaca/g.jsonl:2"]


def test_golden_rows_of_two_tables_are_not_scored_twice(tmp_path):
    golden = [alpaca(f"{sentence(number, 7)} Why?", sentence(number + 50, 9)) for number in range(10)]
    twins = [sharegpt(row["instruction"], row["output"]) for row in golden]
    report, _, set_aside = build_chat_tables(
        tmp_path,
        {"g.jsonl": golden},
        {"h.jsonl": twins},
        sidecars={"g.jsonl": {"split": "test"}, "h.jsonl": {"split": "test"}},
        settings=ALL_TRAIN,
    )
    assert report.splits["test"] == 10 and report.set_aside == {"duplicate": 10}
    assert {row["table"] for row in set_aside} == {"sharegpt"}


def test_a_validation_row_with_a_test_turn_is_set_aside_although_it_shows_a_suite_too(tmp_path):
    shares = DataSettings(validation_share=0.79, test_share=0)
    rows = [sharegpt("Which planet is red?", "Mars.", "Where can I park?", sentence(number, 9)) for number in range(20)]
    report, written, _ = build_chat_tables(
        tmp_path,
        {"g.jsonl": [alpaca("Where can I park?", "There."), alpaca("Nothing like it", sentence(-2, 9))]},
        {"b.jsonl": rows},
        sidecars=GOLDEN,
        settings=shares,
        suite=SuiteTexts(["Which planet is red?"]),
    )
    assert {row["split"] for row in written} == {"test"} and report.set_aside["train_test_overlap"] == 20


def test_a_row_is_set_aside_for_the_very_row_that_it_shows(tmp_path):
    answers = [sentence(2000 + number, 14) for number in range(20)]
    rows = [alpaca(sentence(2100 + number, 7), answer) for number, answer in enumerate(answers)]
    chats = [sharegpt(sentence(2220 + number, 8), f"Well: {answer}") for number, answer in enumerate(answers)]
    _, written, set_aside = build_chat_tables(
        tmp_path,
        {"a.jsonl": rows},
        {"b.jsonl": chats},
        settings=DataSettings(validation_share=0.4, test_share=0.2),
        suite=SuiteTexts([sentence(2300, 9)]),
    )
    splits = {(row["table"], row["row"]): row["split"] for row in written}
    shown = {row["row"]: row["message"] for row in set_aside if row["table"] == "sharegpt"}
    assert shown == {
        number: f"contains a turn of the {splits['alpaca', number]} row alpaca/a.jsonl:{number}" for number in shown
    }
    held_out = {number: split for (table, number), split in splits.items() if table == "alpaca" and split != "train"}
    assert shown.keys() >= {
        min(number for number, of in held_out.items() if of == split) for split in ("test", "validation")
    }


# Splits.


def by_id(rows):
    return {row["id"]: row["split"] for row in rows}


def check_that_no_test_row_moved(before, after):
    """A validation row may be set aside, if a new test row is near it."""
    splits = by_id(after)
    assert sum(split == "test" for split in by_id(before).values()) > 15
    for row_id, split in by_id(before).items():
        assert splits.get(row_id) == split or (split == "validation" and row_id not in splits) or split == "train"


@pytest.mark.long
def test_a_file_that_sorts_first_moves_no_held_out_row(tmp_path):
    rows = [alpaca(f"{sentence(300 + number, 7)} Why so?", sentence(900 + number, 40)) for number in range(150)]
    _, before, _ = build_chat_tables(tmp_path, {"m.jsonl": rows})
    copies = [alpaca(f"{row['instruction']} Please tell me.", row["output"]) for row in rows]
    copies += [alpaca(row["instruction"].upper() + "!", row["output"]) for row in rows]
    _, after, _ = build_chat_tables(tmp_path, {"a.jsonl": copies, "m.jsonl": rows})
    check_that_no_test_row_moved(before, after)
    texts = {row["messages"][1]["content"] for row in before if row["split"] != "train"}
    assert texts.isdisjoint(row["messages"][1]["content"] for row in after if row["split"] == "train")


@pytest.mark.long
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


@pytest.mark.long
def test_a_larger_test_share_moves_rows_only_towards_test(tmp_path):
    rows = [alpaca(f"{sentence(500 + number, 7)} Why so?", sentence(700 + number, 9)) for number in range(200)]
    splits = []
    for test_share in (0.1, 0.3):
        shares = DataSettings(validation_share=0.1, test_share=test_share)
        splits.append(by_id(build_chat_tables(tmp_path, {"a.jsonl": rows}, settings=shares)[1]))
    assert all(splits[1][row_id] == "test" for row_id, split in splits[0].items() if split == "test")


# The index equals a search word by word.


def owners_in(held_out, *texts):
    """For each text, the number of the held-out question that is found in it; -1 without one."""
    collected, count = HeldOutTurns(), len(texts)
    of_turns = np.array([QUESTION] * len(held_out), np.uint8), np.zeros(len(held_out), dtype=bool)
    collected.add(tokenize(held_out), np.arange(len(held_out)), *of_turns)
    index = LeakIndex(collected)
    found = index.search(tokenize(texts), np.arange(count), np.zeros(count, dtype=bool), count)
    return index.lowest_owners(found, count).tolist()


def test_of_a_long_turn_in_a_script_without_spaces_twice_as_many_signs_must_be_found():
    """Sixteen signs count as eight words. Twelve are more than half of the turn, and not enough."""
    question = "".join(chr(0x4E00 + 7 * number) for number in range(20))
    assert owners_in([question], question, question[:16], question[:12]) == [0, 0, -1]


@pytest.mark.parametrize("before", [0, 70, 146])
def test_half_of_a_long_turn_is_found_wherever_it_stands_in_a_document(before):
    """A document is searched in parts of 152 words, divided in two ways: at 76 and 228, and at 152."""
    words = [f"word{number}" for number in range(30)]
    text = [*(f"other{number}" for number in range(before)), *words[:16], "end"]
    assert owners_in([" ".join(words)], " ".join(text)) == [0]


def test_eight_words_of_a_turn_of_twelve_are_found_and_seven_are_not():
    words = [f"word{number}" for number in range(12)]
    assert [owners_in([" ".join(words)], " ".join(words[:count])) for count in (8, 7)] == [[0], [-1]]


@pytest.mark.parametrize(("answers", "found"), [(MIN_ANSWERS, [0, 1, 2]), (MIN_ANSWERS - 1, [])])
def test_from_three_answers_on_the_last_words_of_questions_are_instructions(answers, found):
    rows = np.arange(3 * MIN_COMMON_PAIRS)
    pairs, asked = (rows % answers).astype(np.uint64), np.full(len(rows), 9, np.uint64)
    assert _after_instructions(pairs, asked, rows).tolist() == found


LETTERS = st.sampled_from(["a", "b", "c", "d"])
TEXTS = st.lists(st.lists(LETTERS, min_size=1, max_size=40).map(" ".join), min_size=1, max_size=6)


def windows_in(words):
    return [tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)]


def covered_words(words, windows):
    """The number of words that are in one of these windows."""
    places = [at for at, window in enumerate(windows_in(words)) if window in windows]
    return len({place for at in places for place in range(at, at + WORDS)})


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_long_turns_are_found_like_in_a_search_word_by_word(texts, held_out):
    collected = HeldOutTurns()
    roles = np.array([(QUESTION, ANSWER)[number % 2] for number in range(len(held_out))], np.uint8)
    collected.add(tokenize(held_out), np.arange(len(held_out)), roles, np.zeros(len(held_out), dtype=bool))
    count = len(texts)
    index = LeakIndex(collected)
    found = index.search(tokenize(texts), np.arange(count), np.zeros(count, dtype=bool), count)
    least = {QUESTION: LEAST_WORDS, ANSWER: MIN_ANSWER_WORDS}
    turns = {owner: turn.split() for owner, turn in enumerate(held_out) if len(turn.split()) >= least[roles[owner]]}
    counts = Counter(window for words in turns.values() for window in windows_in(words))
    known = {window for window, times in counts.items() if times <= MAX_TURNS}
    expected = []
    for text in texts:
        shown = known.intersection(windows_in(text.split()))
        owners = []
        for owner, words in turns.items():
            own = covered_words(words, known)
            if own and covered_words(words, shown) >= max(LEAST_WORDS, own / 2):
                owners.append(owner)
        expected.append(min(owners, default=-1))
    assert index.lowest_owners(found, count).tolist() == expected
