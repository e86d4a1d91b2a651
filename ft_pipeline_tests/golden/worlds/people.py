"""Worlds in which people, or a judge, compared answers."""

from ft_pipeline.decide.exposure import Exposure
from ft_pipeline_tests.golden.shop import Shop


def _two(shop: Shop, gain: float = -0.05) -> tuple[str, str]:
    """A tuned model and the base model."""
    shop.prompts()
    shop.train("style", gain)
    return "style/merged", "base"


def people_prefer_it(shop: Shop) -> None:
    """People prefer a tuned model whose likelihood is not better."""
    shop.shows_answers = True
    shop.rate(*_two(shop), 44, 12, 4)


def two_people_prefer_it(shop: Shop) -> None:
    """Two raters, who agree on most pairs, and a champion that the metric decides about."""
    pair = _two(shop, 0.6)
    shop.release_old(0.2)
    shop.rate(*pair, 48, 10, 2)
    shop.rate(*pair, 46, 12, 2, rater="bob")


def people_prefer_the_prompt(shop: Shop) -> None:
    """People prefer the base model to a tuned model whose likelihood is better."""
    shop.rate(*_two(shop, 0.4), 12, 44, 4)


def people_cannot_tell(shop: Shop) -> None:
    """Half may be the truth, and more ratings would decide."""
    shop.count = 400
    shop.rate(*_two(shop, 0.4), 38, 26, 0)


def people_s_preference_may_be_luck(shop: Shop) -> None:
    """A clear preference on rows that were part of eight tests."""
    shop.rate(*_two(shop), 38, 20, 2)
    shop.train("other", 0.02)
    shop.exposure = Exposure(count=8.0)


def people_rated_too_few(shop: Shop) -> None:
    """Twenty ratings against a model whose lead is clear: it is asked for more."""
    shop.rate(*_two(shop, 0.4), 2, 18)


def some_ratings_of_a_lead_by_chance(shop: Shop) -> None:
    """Twenty ratings, and a lead by chance: thirty more would decide."""
    shop.prompts()
    shop.train("style", 0.02, spread=0.3)
    shop.rate("style/merged", "base", 11, 9)


def ratings_of_answers_that_changed(shop: Shop) -> None:
    """Three answers changed since they were rated."""
    pair = _two(shop, 0.4)
    shop.rate(*pair, 48, 12, changed=3)


def neither_answer_can_go_out(shop: Shop) -> None:
    """People find many pairs of which neither answer can go out."""
    shop.rate(*_two(shop), 36, 4, 20, tie="neither")


def a_judge_that_agrees_with_people_decides(shop: Shop) -> None:
    """A judge compared all answers of a second model, and agrees with people on those of the first."""
    shop.prompts()
    shop.train("style", 0.1)
    shop.train("other", 0.3)
    shop.rate("style/merged", "base", 40, 20)
    shop.judge("style/merged", "base", 0.6, shop.ratings)
    shop.judge("other/merged", "base", 0.75)


def a_judge_cannot_tell(shop: Shop) -> None:
    """A judge that agrees with people finds no difference, so people must rate."""
    shop.prompts()
    shop.train("style", -0.1)
    shop.train("other", 0.3)
    shop.rate("style/merged", "base", 20, 40)
    shop.judge("style/merged", "base", 0.4, shop.ratings)
    shop.judge("other/merged", "base", 0.55)


def a_judge_that_nobody_checked(shop: Shop) -> None:
    """A judge finds a model worse whose lead is clear; people must confirm it."""
    shop.judge(*_two(shop, 0.4), 0.2)


def a_judge_that_does_not_agree(shop: Shop) -> None:
    """A judge that does not agree with people decides nothing about a second model."""
    pair = _two(shop, 0.4)
    shop.train("other", 0.3)
    shop.rate(*pair, 30, 30)
    shop.judge(*pair, 0.5)
    shop.judge("other/merged", "base", 0.3)


def a_judge_of_two_minds(shop: Shop) -> None:
    """A judge whose verdict depends on the order, and one of whose replies many cannot be read."""
    shop.prompts()
    for name, gain, faults in (("style", 0.1, {}), ("other", 0.3, {"unsure": 50}), ("third", 0.2, {"unread": 6})):
        shop.train(name, gain)
        if name == "style":
            shop.rate("style/merged", "base", 40, 20)
        shop.judge(f"{name}/merged", "base", 0.7, shop.ratings if name == "style" else (), **faults)
