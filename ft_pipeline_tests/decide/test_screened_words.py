"""No sentence tells in words what the numbers of a model that was screened out would tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.decide.notes import footnotes
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.evaluation.comparison.result_records import Incomparable
from ft_pipeline_tests.golden.shop import Shop
from ft_pipeline_tests.golden.told import decided, recommended, tell
from ft_pipeline_tests.golden.worlds.tuned import _target

BEHIND, AHEAD = {"validation": (40, -0.1)}, {"validation": (40, 0.2)}
TRAILS = "trails base on the 40 validation conversations"
Read = Callable[[Shop], str]


@pytest.fixture
def shop() -> Shop:
    made = Shop()
    made.prompts(of_plain={"validation": (40, 0.0)})
    return made


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """What people read about a shop: all but its claims."""
    return lambda shop: tell(shop.build("world", "", tmp_path)).split("===== decision =====")[1]


def rated(shop: Shop, won: int, lost: int, **validation: Any) -> None:
    shop.train("style", -0.05, **validation)
    shop.rate("style/merged", "base", won, lost)


def test_what_people_said_of_it_when_it_led_is_not_told(shop: Shop, read: Read) -> None:
    rated(shop, 44, 16, **BEHIND)
    text = read(shop)
    assert TRAILS in text and "preferred in" not in text and "can go out in" not in text


def test_that_people_preferred_the_prompt_is_not_told(shop: Shop, read: Read) -> None:
    rated(shop, 12, 48, **BEHIND)
    text = read(shop)
    assert "Do not fine-tune" in text and TRAILS in text and "preferred in" not in text


def test_what_people_said_of_a_model_that_leads_is_told(shop: Shop, read: Read) -> None:
    """Were it not, the tests above could not fail."""
    rated(shop, 44, 16, **AHEAD)
    assert "preferred in" in read(shop)


@pytest.mark.parametrize("validation", [BEHIND, AHEAD])
def test_that_more_rows_help_is_told_only_of_a_model_that_leads(shop: Shop, read: Read, validation: Any) -> None:
    shop.prompts(few_shot={"gain": 0.3, "validation": (40, 0.0)}, of_plain={"validation": (40, -0.3)})
    for name, gain, count in (("style", 0.25, 800), ("style.at50", 0.12, 400), ("style.at25", 0.05, 200)):
        shop.train(name, gain, rows=count, **validation)
    text = read(shop)
    assert ("More data should help" in text) == ("would close the gap" in text) == (validation is AHEAD)


@pytest.mark.parametrize("validation", [BEHIND, AHEAD])
def test_that_merging_lost_is_told_only_of_models_that_lead(shop: Shop, read: Read, validation: Any) -> None:
    shop.train("four", 0.4, merged=0.1, only=("merged", "adapter"), **validation)
    assert ("Merging lowers the quality" in read(shop)) == (validation is AHEAD)


@pytest.mark.parametrize("validation", [BEHIND, AHEAD])
@pytest.mark.parametrize("gain", [0.32, 0.8])
def test_how_others_compare_with_a_champion_is_told_only_if_it_leads(
    shop: Shop, read: Read, validation: Any, gain: float
) -> None:
    """The champion is on the side of the rival: of one that others do not beat, and of one that is replaced."""
    shop.train("style", 0.31, **validation)
    shop.train("other", gain, validation=(40, 0.5))
    shop.release("style/merged")
    text = read(shop)
    told = "style/merged on nats per byte" in text or "the previous champion by" in text
    assert told == (validation is AHEAD)
    assert ("its lead over style/merged is not shown" in text) == (validation is BEHIND)


def test_of_tuning_beside_a_teacher_only_the_screen_is_told(shop: Shop, read: Read) -> None:
    shop.train("style", 0.02, spread=0.3, **BEHIND)
    shop.teach(20.0)
    text = read(shop)
    assert TRAILS in text and "So far" not in text


@pytest.mark.parametrize(("validation", "gain"), [(BEHIND, -0.05), (BEHIND, 0.4), (AHEAD, -0.05)])
def test_of_its_own_target_only_the_screen_is_told(shop: Shop, read: Read, validation: Any, gain: float) -> None:
    shop.train("taste", gain, **validation)
    shop.facts["taste"]["own_targets"] = [_target("taste", "dpo", 0.3)]
    text = read(shop)
    assert ("does not clearly beat the best use" in text) == (validation is AHEAD)
    assert (", but does not lead on the validation rows." in text) == (validation is BEHIND)


@pytest.mark.parametrize("validation", [BEHIND, AHEAD])
def test_no_footnote_says_that_it_has_no_nats_per_byte(shop: Shop, tmp_path: Path, validation: Any) -> None:
    """It has: they are not shown. Its rival has none."""
    shop.train("style", 0.4, **validation)
    apart = Incomparable(
        a="style/merged", b="other/plain", metric="nats_per_byte", because="the tokenizer of its rival loses texts"
    )
    comparison = shop.build("world", "", tmp_path).comparison.changed(incomparable=[apart])
    assert [note for note in footnotes(as_shown(comparison)) if "has no nats per byte" in note] == []


def test_too_few_test_rows_are_named_of_a_model_that_was_screened_out(read: Read) -> None:
    shop = Shop(count=20)
    shop.prompts(of_plain={"validation": (40, 0.0)})
    shop.train("style", 0.4, **BEHIND)
    text = read(shop)
    assert "20 test conversations are too few, 50 are needed" in text.split("verdict:")[1].splitlines()[0]


def test_of_a_champion_that_was_screened_out_only_the_screen_is_told(shop: Shop, read: Read) -> None:
    shop.train("style", 0.02, spread=0.3, **BEHIND)
    shop.release("style/merged")
    text = read(shop)
    assert f"style/merged {TRAILS}" in text and "lead of style/merged" not in text


@pytest.mark.parametrize(("validation", "gain"), [(BEHIND, 0.1), (BEHIND, 0.55), (AHEAD, 0.1)])
def test_beside_passages_that_help_only_the_screen_is_told(
    shop: Shop, tmp_path: Path, validation: Any, gain: float
) -> None:
    """Whether its test scores are behind, or clearly better by less than a training is worth."""
    looked_up = {"gain": 0.5, "passages": 3, "spread": 0.01, "validation": (40, 0.0)}
    shop.prompts(few_shot={"gain": 0.1, "validation": (40, 0.0)}, looked_up=looked_up)
    shop.config["worth"] = 0.1
    shop.train("style", gain, spread=0.01, **validation)
    world = shop.build("world", "", tmp_path)
    document = decided(world)
    reason = recommended(world, document)["reasons"][0]
    assert document["verdict"]["kind"] == "retrieval" and reason.startswith("The model lacks facts, so use retrieval")
    assert ("No tuned model is shown to be better; " in reason) == (validation is BEHIND)
    assert ("style/merged trails looked_up on the 40 validation" in reason) == (validation is BEHIND)
