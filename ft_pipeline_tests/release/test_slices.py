"""What slices do to a promotion: nothing, unless one was declared that must hold; and how a release tells of them."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.cli.common import stdout
from ft_pipeline.cli.display_comparison import show_comparison
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.first_screen import ALWAYS, risks
from ft_pipeline.decide.released import Candidate
from ft_pipeline.decide.slice_table import slices_of
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide.rules import Decision, decide, verdict
from ft_pipeline_tests.evaluation.sliced import REFUND, case

SETTINGS = PromotionSettings(metric="loss")
CANDIDATES = {
    "a/merged": Candidate(
        name="a/merged", kind="merged", experiment="a", fingerprint="f" * 64, gates={"token_audit": True, "merge": True}
    ),
}
MUST_HOLD = {"refund": {**REFUND["refund"], "must_hold": True, "margin": 0.1}}


def decided(comparison: Comparison) -> Decision:
    return decide(comparison, CANDIDATES, SETTINGS, None)


def risks_of(comparison: Comparison) -> list[str]:
    row = comparison.row("a/merged")
    assert row is not None
    return risks(comparison, row)


def test_a_slice_that_is_worse_blocks_nothing_by_itself(tmp_path: Path) -> None:
    assert decided(case(tmp_path, -0.5, REFUND)).move


@pytest.mark.parametrize(
    ("change", "rule", "because"),
    [
        (-0.25, {}, "(at least -0.354; -0.301 is the limit); about "),
        (-0.5, {}, "(at least -0.604; -0.301 is the limit); more conversations would hardly help"),
        (
            1.0,
            {"matches": "parcel 3[0-2]"},
            "whether it holds in refund (3 conversations) cannot be told: 20 are needed",
        ),
        (1.0, {"matches": "no such words"}, "no test conversation is in this slice. Correct its rule"),
    ],
)
def test_a_slice_that_must_hold_blocks_a_promotion_until_it_can_be_told(
    tmp_path: Path, change: float, rule: dict[str, Any], because: str
) -> None:
    measured = case(tmp_path, change, {"refund": {**MUST_HOLD["refund"], **rule}})
    decision = decided(measured)
    assert not decision.move and len(decision.failed["a/merged"]) == 1
    assert because in decision.reasons[0] and "worse" not in decision.reasons[0]
    sentence = verdict(measured, decision, None).sentence
    assert sentence.startswith("Not decided yet: a/merged: whether it holds in refund") and "worse" not in sentence
    assert [test.name for test in decision.tests] == ["a/merged"]  # its lead was tested: that use of the rows counts


def test_a_slice_that_holds_blocks_nothing(tmp_path: Path) -> None:
    assert decided(case(tmp_path, 0.5, MUST_HOLD)).move


def test_only_a_slice_that_is_shown_to_be_worse_is_a_risk(tmp_path: Path) -> None:
    worse, same = (risks_of(case(tmp_path / str(change), change, REFUND)) for change in (-0.5, 1.0))
    assert worse[0] == "It is worse in refund (25 conversations) than base: -0.499 (95 %: -0.632 to -0.396)."
    assert not [line for line in same if "refund" in line or "worse in" in line] and same[-1] == ALWAYS


def test_a_row_without_leads_in_slices_has_no_risk_of_another_row(tmp_path: Path) -> None:
    measured = case(tmp_path, -0.5, REFUND)
    adapter, parts = measured.row("a/adapter"), slices_of(measured, measured.row("a/adapter"))
    assert adapter is not None and parts is not None and parts.row == "a/merged"
    assert not [line for line in risks(measured, adapter) if "refund" in line]


def test_the_command_shows_what_the_slices_say(tmp_path: Path) -> None:
    with stdout.capture() as captured:
        show_comparison(stdout, case(tmp_path, -0.5, MUST_HOLD))
    shown = " ".join(captured.get().split())
    assert "a/merged is worse in refund (25 conversations) than base: -0.499" in shown
    assert "a/merged: whether it holds in refund (25 conversations) cannot be told" in shown
