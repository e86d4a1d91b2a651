"""The first screen of the report: lights, what could go wrong, leads, and three answers that a rule chose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ft_pipeline.cli.display_comparison import show_comparison
from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import Claim, KeptFacts, RailFacts, Verdict
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.first_screen import ALWAYS, lights, risks
from ft_pipeline.decide.plots import lead_picture
from ft_pipeline.decide.sentences import say
from ft_pipeline.release.report.answers import before_and_after
from ft_pipeline.release.report.leads import lead_plot
from ft_pipeline_tests.decide.claims import having, kept, lacking
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, LOOP, losses, scored

NAME = "a/merged"


def case(folder: Path, **of_base: Any) -> Comparison:
    rows = {"plain": {"kind": "base", "losses": losses(3.0), "correct": CORRECT, **of_base}}
    tuned = {"merged": {"kind": "merged", "losses": losses(1.5), "correct": CORRECT, "technique": "lora"}}
    inputs = {"a/prompt_baseline": scored(folder / "base", rows), "a/scores": scored(folder / "tuned", tuned)}
    return compare(inputs, CONFIG).changed(test_rows=174)


def rail(name: str, verdict: Verdict, faults: int = 0, because: str = "") -> Claim:
    numbers = {"value": faults / 174, "low": 0.0, "high": 0.01 + faults / 174, "limit": 0.05, "count": 174}
    facts = RailFacts(fault="repeat themselves", faults=faults)
    return Claim(kind="rail", row=NAME, measure=name, **numbers, verdict=verdict, because=because, facts=facts)


def with_rails(found: Comparison, *rails: Claim) -> Comparison:
    """The comparison with these rails alone."""
    return having(lacking(found, "rail"), *rails)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return case(tmp_path)


def test_a_small_comparison_is_called_small_in_the_terminal(comparison: Comparison) -> None:
    shown = {}
    for count in (65, 100):
        console = Console(record=True, width=200)
        show_comparison(console, comparison.changed(test_rows=count))
        shown[count] = console.export_text()
    assert "Small: 65 test conversations, fewer than 100. Only large leads show." in shown[65]
    assert "Small" not in shown[100]


@pytest.fixture
def merged(comparison: Comparison) -> Row:
    row = comparison.row(NAME)
    assert row is not None
    return row


def test_a_sound_row_has_green_lights(comparison: Comparison, merged: Row) -> None:
    rails = [rail(name, "shown") for name in ("cut_off", "repetition", "refusal")]
    found = lights(with_rails(comparison, *rails), merged)
    assert [(light.color, light.words) for light in found] == [
        ("green", "Enough test conversations"),
        ("green", "Keeps general knowledge"),
        ("green", "Answers end, without repeating"),
        ("green", "No needless refusals"),
        ("amber", "Refusals were not tested"),
        ("amber", "Nobody has rated the answers"),
    ]
    assert [light.symbol for light in found] == ["✓"] * 4 + ["?"] * 2 and found[0].detail == "174 test conversations"


@pytest.mark.parametrize(
    ("claims", "place", "color", "words"),
    [
        ([kept(NAME, 60)], 1, "red", "Forgets general knowledge"),
        ([kept(NAME, 30, 15)], 1, "amber", "Forgetting cannot be told"),
        ([rail("cut_off", "shown"), rail("repetition", "refuted", 60)], 2, "red", "Cut off, or repeating"),
        ([rail("cut_off", "open", 8), rail("repetition", "shown")], 2, "amber", "Endings cannot be told"),
        ([], 1, "amber", "General knowledge not tested"),
        ([], 2, "amber", "Endings were not checked"),
        ([rail("refusal", "void", because="not checked")], 3, "amber", "Refusals were not checked"),
        ([rail("refusal", "refuted", 60)], 3, "red", "Refuses without need"),
    ],
)
def test_a_fault_changes_its_light(
    comparison: Comparison, merged: Row, claims: list[Claim], place: int, color: str, words: str
) -> None:
    light = lights(having(lacking(comparison, "general", "rail"), *claims), merged)[place]
    assert (light.color, light.words) == (color, words) and light.detail


@pytest.mark.parametrize(
    ("verdicts", "color", "words"),
    [
        (["shown", "void"], "green", "Passes the probes"),
        (["shown", "open"], "amber", "Probes cannot be told"),
        (["shown", "unknown"], "amber", "Probes cannot be told"),
        (["refuted", "unknown"], "red", "Fails probes"),
    ],
)
def test_probes_have_a_light_and_what_they_do_not_show_is_a_risk(
    comparison: Comparison, merged: Row, verdicts: list[Verdict], color: str, words: str
) -> None:
    checks = [check("probes", f"p{number}", found) for number, found in enumerate(verdicts)]
    tested = having(comparison, *checks)
    [light] = [light for light in lights(tested, merged) if "robes" in light.words]
    assert (light.color, light.words) == (color, words)
    assert all(f"the probes p{number}" in light.detail for number in range(2))
    blocking = [f"{say(tested, claim)}." for claim in checks if not claim.holds]
    assert [line for line in risks(tested, merged) if "the probes" in line] == blocking


def test_tasks_that_must_hold_have_a_light(comparison: Comparison, merged: Row) -> None:
    tested = having(comparison, check("task", "t/acc", "refuted"))
    found = [(light.color, light.words) for light in lights(tested, merged)]
    assert ("red", "Fails a task") in found and ("amber", "Refusals were not tested") in found
    base = comparison.row("base")
    assert base and all("tested" not in light.words for light in lights(comparison, base))


def check(kind: str, name: str, verdict: Verdict) -> Claim:
    numbers = {"value": -0.1, "low": -0.18, "high": -0.02, "limit": -0.05, "count": 60}
    because = {"unknown": "clause", "void": "not_in_base"}.get(verdict, "")
    facts = KeptFacts(wanted="declined", because="why", before=0.5, after=0.4)
    return Claim(kind=kind, row=NAME, measure=name, **numbers, verdict=verdict, because=because, facts=facts)


@pytest.mark.parametrize(("rows", "color"), [(49, "red"), (50, "amber"), (99, "amber"), (100, "green")])
def test_few_test_conversations_change_the_first_light(
    comparison: Comparison, merged: Row, rows: int, color: str
) -> None:
    assert lights(comparison.changed(test_rows=rows), merged)[0].color == color


def test_at_most_three_risks_are_named_and_what_always_holds(comparison: Comparison, merged: Row) -> None:
    worst = having(with_rails(comparison, rail("cut_off", "open", 8)), kept(NAME, 30, 15))
    found = risks(worst.changed(test_rows=60), merged)
    assert len(found) == 4 and found[-1] == ALWAYS
    assert found[0].startswith("Some answers have a fault: 5% of its answers") and found[1].startswith(
        "Forgetting cannot be told"
    )
    assert found[2].startswith("It was trained once")


def test_a_bar_that_nobody_could_use_is_a_risk(tmp_path: Path) -> None:
    comparison = case(tmp_path, answer=LOOP)
    merged = comparison.row("a/merged")
    assert merged is not None
    assert any("Beating base says little" in line for line in risks(comparison, merged))


@pytest.mark.usefixtures("rendered")
def test_leads_are_drawn_over_the_best_baseline(comparison: Comparison, tmp_path: Path) -> None:
    png = lead_picture(comparison)
    assert png is not None and png.startswith(b"\x89PNG")
    base, merged = comparison.row("base"), comparison.row("a/merged")
    assert base and merged
    ahead, behind = comparison.lead_over(merged, base), comparison.lead_over(base, merged)
    assert ahead and behind
    assert (ahead.value, ahead.is_clear) == (pytest.approx(1.5), True)
    assert (behind.value, behind.low, behind.high) == (-ahead.value, -(ahead.high or 0), -(ahead.low or 0))
    only_tuned = {"a/scores": tmp_path / "tuned"}
    assert lead_picture(compare(only_tuned, CONFIG)) is None


def test_leads_are_numbers_in_percent_and_places_in_a_plot(comparison: Comparison, merged: Row) -> None:
    plot = lead_plot(comparison, merged)
    assert plot is not None and plot.baseline == "base" and plot.unit.startswith("percent better")
    [line], base = plot.lines, comparison.row("base")
    assert base is not None and line.numbers.startswith(f"{150 / base.scores['loss'].value:+.1f} (+")
    assert (line.words, line.mark, line.is_chosen) == ("better", "clear", True)
    assert 0 < plot.zero < line.low <= line.value <= line.high < 100


def test_a_row_that_cannot_be_used_says_why_beside_its_lead(comparison: Comparison, merged: Row) -> None:
    plot = lead_plot(with_rails(comparison, rail("repetition", "refuted", 60)), merged)
    assert plot is not None
    assert [(line.words, line.mark) for line in plot.lines] == [("cannot be used: 34% repeat themselves", "unusable")]


def _said(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    return f"{before['answer']} or {after['answer']}"


def test_three_answers_are_chosen_by_their_gain() -> None:
    count = 101
    samples = {
        name: [
            {"item": f"{number:03}:1", "prompt": "p", "answer": f"{name} {number}", "reference": f"r{number}"}
            for number in range(count)
        ]
        for name in ("old", "new")
    }
    rows = ("old", "new")
    chosen = before_and_after(samples, {}, rows, [float(number) for number in range(count)], _said)
    assert [(entry["name"], entry["before"], entry["after"], entry["reference"]) for entry in chosen] == [
        ("a typical answer", "old 50", "new 50", "r50"),
        ("one of the good ones", "old 90", "new 90", "r90"),
        ("the worst", "old 0", "new 0", "r0"),
    ]
    assert chosen[0]["verdict"] == "old 50 or new 50"
    equal = before_and_after(samples, {}, rows, [0.0] * count, _said)
    assert [entry["after"] for entry in equal] == ["new 50", "new 90", "new 0"]
