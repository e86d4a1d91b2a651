"""The noise floor: a prompt that is scored twice, and leads that are no larger than what that changes."""

from pathlib import Path

import pytest

from ft_pipeline.decide.build import build
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import comparison_of
from ft_pipeline.decide.notes import footnotes
from ft_pipeline.decide.sentences import say
from ft_pipeline.evaluation.comparison.result_records import ScoredTwice
from ft_pipeline_tests.evaluation.scored import CONFIG, ITEMS, losses, scored


def compared(folder: Path, spread: float | None, level: float = 1.2) -> Comparison:
    """A tuned model beside a prompt with a loss of 1.7, which is `spread` more the second time; None: scored once."""
    prompt = {"kind": "prompt", "losses": losses(1.7)}
    if spread is not None:
        prompt |= {"again": [loss + spread for loss in losses(1.7)], "differing": 3}
    rows = {"plain": {"kind": "base", "losses": losses(2.0)}, "few_shot": prompt}
    tuned = {"merged": {"kind": "merged", "losses": losses(level), "technique": "lora"}}
    inputs = {
        "lora/prompt_baseline": scored(folder / "prompts", rows),
        "lora/scores": scored(folder / "tuned", tuned),
    }
    return build(inputs, CONFIG)


def lead_of(comparison: Comparison) -> Claim:
    row, rival = (comparison.row(name) for name in ("lora/merged", "few_shot"))
    assert row is not None and rival is not None
    lead = comparison.lead(row, rival)
    assert lead is not None
    return lead


def test_a_lead_that_is_no_larger_than_what_a_second_scoring_changes_is_not_clear(tmp_path: Path) -> None:
    once, little, much = (compared(tmp_path / str(spread), spread) for spread in (None, 0.01, 0.6))
    assert [lead_of(each).verdict for each in (once, little, much)] == ["shown", "shown", "open"]
    assert say(much, lead_of(much)).endswith(
        "but the two values of few_shot, which was scored twice, differ as much: loss by 0.600: that may be rounding"
    )
    assert lead_of(once).low == pytest.approx(lead_of(much).low)


def test_what_a_second_scoring_changes_stands_beside_the_leads(tmp_path: Path) -> None:
    comparison = compared(tmp_path, 0.01)
    twice = comparison.scored_twice
    assert twice == ScoredTwice(row="few_shot", answers=ITEMS, differing=3, spread=twice.spread)
    assert twice.spread == pytest.approx(0.01)
    said = f"few_shot was scored twice, in batches of another size: 3 of {ITEMS} answers differ, and loss by 0.010."
    assert said in footnotes(comparison)
    document = comparison.to_json()
    assert comparison_of(document).scored_twice == comparison.scored_twice
    assert "scored_twice" not in compared(tmp_path / "once", None).to_json()
