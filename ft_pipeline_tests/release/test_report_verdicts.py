"""What people and a judge said of two answers, as the report says it."""

import pytest

from ft_pipeline.evaluation.opinions.verdict_tables import Answers, Judgement, Rating, hash_of_answer
from ft_pipeline.release.report.verdicts import Verdicts

OLD, NEW = ({"item": "a:1", "answer": text} for text in ("Wait.", "Please wait for the e-mail."))
PAIR = Answers("a:1", hash_of_answer(NEW["answer"]), hash_of_answer(OLD["answer"]))
BETTER, WORSE = Rating(1.0, True), Rating(-1.0, True)
NEITHER = Rating(0.0, False)


@pytest.mark.parametrize(
    ("ratings", "sentence"),
    [
        ([BETTER], "People: after is better."),
        ([WORSE], "People: before is better."),
        ([BETTER, WORSE], "People: none is better (2 raters)."),
        ([NEITHER], "People: none is better, and neither can go out."),
    ],
)
def test_people_are_quoted_with_the_sides_of_the_report(ratings: list[Rating], sentence: str) -> None:
    by_rater = {str(number): rating for number, rating in enumerate(ratings)}
    assert Verdicts({PAIR: by_rater}, {}).describe(OLD, NEW) == sentence
    reverse = {rater: Rating(-rating.value, rating.can_go_out) for rater, rating in by_rater.items()}
    assert Verdicts({PAIR.swapped: reverse}, {}).describe(OLD, NEW) == sentence


def test_the_judge_is_quoted_beside_people() -> None:
    verdicts = Verdicts({PAIR: {"r1": BETTER}}, {PAIR: Judgement(0.0, True, 0, 0.1)})
    assert verdicts.describe(OLD, NEW) == "People: after is better. The judge: before is better."


def test_answers_that_nobody_compared_have_no_verdict() -> None:
    assert Verdicts({PAIR: {"r1": BETTER}}, {}).describe(OLD, {**NEW, "answer": "Another answer."}) == ""
