"""How much of a prompt's gain is kept by a model that learned to answer without it, and what its calls save."""

from pathlib import Path

import numpy as np
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.findings.kept_prompts import share_of_lead
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline_tests.decide.rules import desk_of
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, scored


def case(folder: Path, share: float, gain: float = 1.0, count: int = 200, prompt: str = "few_shot") -> Comparison:
    """A prompt that leads by `gain` nats per token, and a model that learned it and keeps this share."""
    random = np.random.default_rng(3)
    hard = random.normal(3, 1, size=count)
    losses = {
        "plain": hard,
        "few_shot": hard - gain - random.normal(0, 0.5, size=count),
        "merged": hard - share * gain - random.normal(0, 0.5, size=count),
    }
    rows = {
        name: {"kind": kind, "losses": losses[name].tolist(), "correct": CORRECT, "tokens": tokens, "seconds": seconds}
        for name, kind, tokens, seconds in (("plain", "base", 40, 0.2), ("few_shot", "prompt", 400, 0.5))
    }
    tuned = {"kind": "merged", "losses": losses["merged"].tolist(), "correct": CORRECT, "technique": "lora"}
    inputs = {
        "a/prompt_baseline": scored(folder / "base", rows),
        "a/scores": scored(folder / "a", {"merged": {**tuned, "tokens": 40, "seconds": 0.2}}),
    }
    bases = {"a/prompt_baseline": "1", "a/scores": "1"}
    return compare(inputs, CONFIG | {"bases": bases}, {"a": {"prompt": prompt}})


def test_the_share_that_is_kept_has_an_interval_and_the_savings_are_counted(tmp_path: Path) -> None:
    comparison = case(tmp_path, share=0.6)
    (kept,) = comparison.kept_prompts
    assert (kept.row, kept.prompt) == ("a/merged", "few_shot")
    assert kept.share is not None and kept.low is not None and kept.high is not None
    assert kept.low < 0.6 < kept.high and kept.low < kept.share < kept.high
    assert kept.saved.prompt_tokens_per_call == 360
    assert kept.saved.seconds_per_call == pytest.approx(0.3)
    sentence = kept.describe()
    assert sentence.startswith(f"a/merged keeps {kept.share:.0%} (95 %: {kept.low:.0%} to {kept.high:.0%}) of the lead")
    assert sentence.endswith("Each call takes 360 fewer prompt tokens, 0.3 s less than with the prompt.")
    assert sentence in comparison_markdown(comparison)
    assert any(sentence in reason for reason in recommend(desk_of(comparison, {}, 50))["reasons"])
    assert Comparison.model_validate(comparison.to_json()).kept_prompts == comparison.kept_prompts


def test_a_prompt_without_a_clear_lead_has_no_gain_to_keep(tmp_path: Path) -> None:
    (kept,) = case(tmp_path, share=1.0, gain=0.0).kept_prompts
    assert (kept.share, kept.low, kept.high) == (None, None, None)
    assert "few_shot does not clearly lead" in kept.describe()


def test_a_prompt_that_was_not_scored_gives_no_entry(tmp_path: Path) -> None:
    comparison = case(tmp_path, share=0.5, prompt="another")
    assert comparison.kept_prompts == [] and "kept_prompts" not in comparison.to_json()


@pytest.mark.parametrize("true_share", [0.2, 0.9])
def test_the_interval_contains_the_true_share_as_often_as_it_promises(true_share: float) -> None:
    """Of 400 small worlds; the standard error of 95 % is then 1.1 %. The prompt's lead is barely clear in many."""
    random = np.random.default_rng(0)
    covered, found = 0, 0
    for _ in range(400):
        gained = random.normal(0.5, 1, size=60)
        kept = true_share * gained + random.normal(0, 0.6, size=60)
        if (result := share_of_lead(kept, gained)) is not None:
            found += 1
            covered += result[1] <= true_share <= result[2]
    assert found > 300 and 0.92 <= covered / found <= 0.985


def test_leads_that_are_equal_everywhere_keep_everything() -> None:
    gained = np.random.default_rng(1).normal(1, 0.2, size=50)
    share, low, high = share_of_lead(gained, gained) or (0, 0, 0)
    assert share == pytest.approx(1) and low == pytest.approx(1) and high == pytest.approx(1)
