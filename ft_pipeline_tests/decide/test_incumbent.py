"""What the verdict says of what answers today, whatever is decided about tuning."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline_tests.golden.shop import Shop
from ft_pipeline_tests.golden.told import decided
from ft_pipeline_tests.golden.worlds.checks import _incumbent


def shop_with_a_champion(champion: str, tuned: float, **of_tuned: Any) -> Shop:
    """A classifier is right in 90 % of the answers, what answers today in 60 %."""
    shop = Shop()
    shop.prompts(of_plain={"right": 0.2, "validation": (40, 0.0)})
    shop.train("style", 0.5, right=tuned, **of_tuned)
    shop.rivals(majority={"right": 0.2}, word_model={"right": 0.9})
    _incumbent(shop, 0.6)
    shop.released = champion or None
    return shop


def verdict(shop: Shop, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = decided(shop.build("world", "", folder))["verdict"]
    return found


def test_a_champion_that_was_screened_out_is_not_compared_with_it(tmp_path: Path) -> None:
    shop = Shop()
    shop.prompts(of_plain={"right": 0.2, "validation": (40, 0.0)})
    shop.train("style", 0.02, right=0.9, validation=(40, -0.1))
    shop.release("style/merged")
    _incumbent(shop, 0.8)
    found = verdict(shop, tmp_path)
    assert (found["kind"], found["row"]) == ("undecided", "style/merged")
    assert found["sentence"].startswith("Not decided yet: style/merged trails base on the 40 validation conversations")
    assert found["sentence"].endswith(" So it is not compared with today, which ends on 2027-01-14.")
    assert "exact match" not in found["sentence"]


NOT_WORSE = (
    " word_model is not worse than today, which ends on 2027-01-14: exact match: +0.318 (at least 0.215; -0.05 is"
)


@pytest.mark.parametrize("champion", ["", "word_model"])
def test_a_classifier_in_use_is_compared_with_it_while_tuning_is_open(champion: str, tmp_path: Path) -> None:
    """It came by an earlier run, or comes by this one."""
    found = verdict(shop_with_a_champion(champion, 0.93), tmp_path)
    assert (found["kind"], found["row"]) == ("undecided", "style/merged")
    assert f"Until then, word_model is the champion.{NOT_WORSE}" in found["sentence"]


def test_a_tuned_champion_is_compared_with_it_while_a_classifier_may_be_as_good(tmp_path: Path) -> None:
    found = verdict(shop_with_a_champion("style/merged", 0.93), tmp_path)["sentence"]
    assert " style/merged is not worse than today, which ends on 2027-01-14: exact match: +0.3" in found


def test_what_is_not_shown_to_be_as_good_is_named(tmp_path: Path) -> None:
    shop = shop_with_a_champion("word_model", 0.93)
    _incumbent(shop, 0.95, ends=None)
    found = verdict(shop, tmp_path)["sentence"]
    assert " word_model is not shown to be as good as today: exact match: -0.0" in found


def test_a_tuned_champion_that_was_screened_out_is_not_compared_while_tuning_is_open(tmp_path: Path) -> None:
    """Another tuned model is open, so that nothing is decided."""
    shop = shop_with_a_champion("style/merged", 0.93, validation=(40, -0.1))
    found = verdict(shop, tmp_path)["sentence"]
    assert "Not decided yet" in found and "today" not in found


def test_nothing_is_said_of_what_nothing_compares(tmp_path: Path) -> None:
    """What answers today gives no likelihoods, and nothing checks its answers."""
    shop = Shop()
    shop.prompts(few_shot={"gain": 0.3})
    shop.train("style", 0.31, spread=0.3)
    shop.release("few_shot")
    _incumbent(shop, likes=3.0)
    found = verdict(shop, tmp_path)["sentence"]
    assert "Until then, few_shot is the champion." in found and "today" not in found
