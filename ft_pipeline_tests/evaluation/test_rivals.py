"""Answers without a language model: the constant answer, the nearest answer, and the word model."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.evaluation.rivals import label_model, score, word_model
from ft_pipeline.evaluation.rivals.answered_questions import AnsweredQuestion, NoRival, why_not_few
from ft_pipeline.evaluation.rivals.majority import majority
from ft_pipeline.evaluation.rivals.nearest_answer import NearestAnswer
from ft_pipeline.evaluation.rivals.word_model import ARRAYS, TEXTS, WordModel
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation

WORDS = {"delivery": "parcel late courier", "refund": "money back return", "account": "login password mail"}
OPENINGS = ("Hello,", "Good morning,", "Hi there,", "Please help,")


def known(*pairs: tuple[str, str]) -> list[AnsweredQuestion]:
    return [AnsweredQuestion(question, answer, answer) for question, answer in pairs]


def labelled(count: int, seed: int = 0) -> list[AnsweredQuestion]:
    """Questions whose words say their label."""
    chance = random.Random(seed)
    pairs = []
    for _ in range(count):
        label = chance.choice(list(WORDS))
        pairs.append((f"{chance.choice(OPENINGS)} my {chance.choice(WORDS[label].split())} {chance.random()}", label))
    return known(*pairs)


def share_right(model: WordModel, asked: Sequence[AnsweredQuestion]) -> float:
    answers = model.answers([each.question for each in asked])
    return sum(answer.text == each.reference for answer, each in zip(answers, asked, strict=True)) / len(asked)


# --- majority


def test_majority_gives_the_most_frequent_label() -> None:
    assert majority(known(("a", "no"), ("b", "yes"), ("c", "yes"), ("d", "no"), ("e", "yes")), 0).reference == "yes"


def test_majority_of_free_text_is_most_like_the_others() -> None:
    texts = ["Please send your order number 1.", "Please send your order number 2.", "Completely different words"]
    assert majority(known(*((str(number), text) for number, text in enumerate(texts))), 0).reference in texts[:2]


def test_majority_of_much_free_text_depends_on_the_seed_only() -> None:
    rows = known(*((str(number), f"answer {number} {number * 7919 % 104729}") for number in range(300)))
    assert majority(rows, 3) == majority(rows, 3)


# --- nearest answer


def test_nearest_answer_is_that_of_the_most_similar_question() -> None:
    rows = known(("Where is my parcel?", "It is late."), ("How do I reset my password?", "Click the link."))
    index, _ = NearestAnswer.best(rows, [])
    assert [answer.reference for answer in index.answers(["password reset", "my parcels"])] == [
        "Click the link.",
        "It is late.",
    ]


def test_validation_rows_choose_the_view() -> None:
    unknown_words = known(("one", "number"), ("abcdefgh", "letters"))
    assert NearestAnswer.best(unknown_words, known(("abcdefghi", "letters")))[1] == "characters"
    misleading_characters = known(("goes going gone", "verb"), ("go zzzz", "game"))
    assert NearestAnswer.best(misleading_characters, known(("go goe goi gon", "game")))[1] == "words"


def test_without_words_there_is_no_nearest_answer() -> None:
    with pytest.raises(NoRival, match="no words"):
        NearestAnswer.best(known((" ", "a"), ("", "b")), [])


# --- word model


@pytest.mark.parametrize("checked", [0, 40])
def test_word_model_learns_labels(checked: int) -> None:
    model = WordModel.fit(labelled(90), labelled(checked, 1))
    assert share_right(model, labelled(60, 2)) == 1.0
    [answer] = model.answers(["my parcel"])
    assert sum(answer.probabilities["answer"].values()) == pytest.approx(1)
    assert answer.probability == answer.probabilities["answer"]["delivery"] > 0.5


def test_two_labels_have_probabilities_too(tmp_path: Path) -> None:
    rows = [each for each in labelled(90) if each.reference != "account"]
    [answer] = WordModel.fit(rows, []).answers(["money back"])
    assert answer.text == "refund" and sum(answer.probabilities["answer"].values()) == pytest.approx(1)


def test_a_written_model_is_the_same_and_holds_no_code(tmp_path: Path) -> None:
    model, asked = WordModel.fit(labelled(90), []), [each.question for each in labelled(30, 5)]
    model.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ARRAYS, TEXTS}
    again = WordModel.read(tmp_path)
    for one, other in zip(model.answers(asked), again.answers(asked), strict=True):
        assert one.text == other.text and one.probability == pytest.approx(other.probability, abs=1e-5)


def as_json(topic: str, urgent: bool, name: str, **style: Any) -> str:
    return json.dumps({"name": name, "topic": topic, "urgent": urgent}, **style)


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_json_answers_have_a_model_for_each_field_with_few_values(style: Mapping[str, Any], tmp_path: Path) -> None:
    rows = [
        (
            f"{each.question} {'now' if number % 2 else 'later'}",
            as_json(each.reference, bool(number % 2), f"n{number}", **style),
        )
        for number, each in enumerate(labelled(90))
    ]
    model = WordModel.fit(known(*rows), [])
    assert set(model.models) == {"topic", "urgent"}
    model.write(tmp_path)
    for each in (model, WordModel.read(tmp_path)):
        [answer] = each.answers(["my parcel now"])
        assert answer.text == as_json("delivery", True, "n0", **style)
        assert set(answer.probabilities) == {"topic", "urgent"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "there are no training rows"),
        (known(*((str(number), "yes") for number in range(9))), "all training rows have the same answer"),
        (known(*((f"q{n} {n % 10_000}", f"label {n % 10_000}") for n in range(20_000))), "10,000 different answers"),
        (known(*((str(number), f"text {number}") for number in range(9))), "9 different answers, which seldom repeat"),
        (known(*((" ", "yes"), ("", "no")) * 4), "the training questions have no words"),
        (known(*((str(n), json.dumps({"id": n, "kind": "x"})) for n in range(9))), "no field of the JSON answers"),
        ([AnsweredQuestion("q", "call", "", ({"name": "look_up"},))], "some answers call tools"),
    ],
)
def test_why_there_is_no_word_model(rows: list[AnsweredQuestion], reason: str) -> None:
    with pytest.raises(NoRival, match=reason):
        WordModel.fit(rows, [])


def test_a_regression_that_does_not_converge_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_model, "MAX_STEPS", 1)
    with pytest.raises(NoRival, match="did not converge in 1 steps"):
        WordModel.fit(labelled(90), [])


def test_empty_answers_are_answers() -> None:
    assert why_not_few(["", "", "yes", "yes"]) is None
    assert majority(known(("a", ""), ("b", ""), ("c", "yes")), 0).reference == ""


# --- workers


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    rows = [
        conversation(split, each.question, each.reference)
        for seed, (split, count) in enumerate((("train", 60), ("validation", 25), ("test", 30)))
        for each in labelled(count, seed)
    ]
    folder = tmp_path / "conversations"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


def test_rivals_are_scored_as_all_rows(make_job: JobMaker, shop: Path) -> None:
    model = make_job("word_model", "model", {"conversations": shop}, seed=0)
    assert word_model.run(model) == {"left_out": None, "labels": {"answer": 3}}
    names = ["majority", "nearest_answer", "word_model"]
    job = make_job("rival_scores", "scores", {"conversations": shop, "word_model": model.out}, rivals=names)
    summary = score.run(job)
    rows = {row["name"]: row for row in summary["rows"]}
    assert [rows[name]["kind"] for name in names] == ["constant", "search", "classifier"]
    assert "left_out" not in summary and summary["test_items"] == 30
    assert rows["word_model"]["scores"]["exact_match"]["value"] == 1.0
    assert rows["majority"]["scores"]["exact_match"]["value"] < 0.6
    assert rows["majority"]["model"]["answer"] in WORDS
    samples = pq.read_table(job.out / "samples.parquet").to_pylist()
    assert len(samples) == 90 and all(sample["content_nats"] is None for sample in samples)
    for row in rows.values():
        assert "nats_per_byte" not in row["scores"] and row["seconds_per_call"] > 0


def test_what_has_no_answers_is_left_out_with_its_reason(make_job: JobMaker, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([conversation("test", "Is it late?", "Yes.")]), folder / "rows.parquet")
    model = make_job("word_model", "model", {"conversations": folder}, seed=0)
    assert word_model.run(model)["left_out"] == "there are no training rows"
    job = make_job("rival_scores", "scores", {"conversations": folder}, rivals=["majority", "nearest_answer"])
    assert score.run(job)["left_out"] == [
        "majority is left out: there are no training rows.",
        "nearest_answer is left out: there are no training rows.",
    ]


def test_only_turns_since_the_last_answer_are_asked() -> None:
    from ft_pipeline.evaluation.items import make_items

    item = make_items([conversation("test", "First?", "One.", "Second?", "Two.")])[1]
    assert AnsweredQuestion.of(item).question == "Second?"
