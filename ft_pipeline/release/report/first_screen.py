"""What a reader sees first: how the chosen row stands (lights), and what could go wrong with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow, Rail
from ft_pipeline.evaluation.model_kinds import TUNED

ENOUGH_TEST_ROWS, FEW_TEST_ROWS = 100, 50
"""Test conversations from which a light is green, and below which it is red."""
MAX_RISKS = 3
ALWAYS = "Scores do not show whether an answer is true."
SYMBOLS = {"green": "✓", "amber": "?", "red": "✗"}
Color = Literal["green", "amber", "red"]


@dataclass(frozen=True)
class Light:
    """One traffic light."""

    color: Color
    words: str
    detail: str
    """The number behind it."""

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.color]


def lights(comparison: Comparison, row: ComparisonRow) -> list[Light]:
    """Return the lights of a row."""
    return [_of_test_rows(comparison.test_rows), _of_forgetting(row), _of_endings(row), _of_refusals(row)]


def _of_test_rows(count: int) -> Light:
    color: Color = "green" if count >= ENOUGH_TEST_ROWS else "amber" if count >= FEW_TEST_ROWS else "red"
    words = {
        "green": "Enough test conversations",
        "amber": "Few test conversations",
        "red": "Too few test conversations",
    }
    return Light(color, words[color], f"{count:,} test conversations")


def _of_forgetting(row: ComparisonRow) -> Light:
    if row.kind not in (*TUNED, "champion"):
        return Light("green", "Keeps general knowledge", "the base model is unchanged")
    if row.forgetting is None:
        return Light("amber", "General knowledge not tested", "no general questions, or none of its base model")
    verdict = row.forgetting.verdict
    color: Color = "green" if verdict == "kept" else "red" if verdict == "forgets" else "amber"
    words = {
        "green": "Keeps general knowledge",
        "amber": "Forgetting cannot be told",
        "red": "Forgets general knowledge",
    }
    return Light(color, words[color], row.forgetting.describe())


def _of_endings(row: ComparisonRow) -> Light:
    rails = [rail for rail in row.rails if rail.name in ("cut_off", "repetition")]
    if not rails:
        return Light("amber", "Endings were not checked", "scored by an older version")
    color = max((_color(rail) for rail in rails), key=list(SYMBOLS).index)
    words = {
        "green": "Answers end, without repeating",
        "amber": "Endings cannot be told",
        "red": "Cut off, or repeating",
    }
    return Light(color, words[color], "; ".join(rail.describe() for rail in rails))


def _of_refusals(row: ComparisonRow) -> Light:
    rail = next((rail for rail in row.rails if rail.name == "refusal"), None)
    if rail is None or rail.verdict == "not checked":
        return Light("amber", "Refusals were not checked", "the patterns are English")
    words = {"green": "No needless refusals", "amber": "Refusals cannot be told", "red": "Refuses without need"}
    return Light(_color(rail), words[_color(rail)], rail.describe())


def _color(rail: Rail) -> Color:
    return "red" if rail.verdict == "breach" else "amber" if rail.verdict == "cannot be told" else "green"


def risks(comparison: Comparison, row: ComparisonRow) -> list[str]:
    """Return what could go wrong with a row: the first that apply, and what always does."""
    return [*list(_risks(comparison, row))[:MAX_RISKS], ALWAYS]


def _risks(comparison: Comparison, row: ComparisonRow) -> Iterator[str]:
    for rail in row.rails:
        if rail.verdict == "cannot be told" or (
            rail.verdict == "pass" and rail.faults and rail.high > rail.ceiling / 2
        ):
            yield f"Near its limit: {rail.describe()}."
    if row.kind in TUNED and (row.forgetting is None or row.forgetting.verdict != "kept"):
        yield row.forgetting.describe() if row.forgetting else "Whether it forgets was not tested."
    if row.kind in TUNED and not comparison.recipe_leads_of(row):
        yield "It was trained once: another training of the same settings may be better or worse (`seeds: 3` shows it)."
    baseline = comparison.best_baseline(of=row)
    if baseline is not None and not baseline.is_usable:
        why = f"{baseline.name}: {baseline.breaches[0].describe()}"
        yield f"No untouched use of the base model is usable ({why}), so the bar is low."
    if comparison.test_rows < ENOUGH_TEST_ROWS:
        yield f"It was tested on {comparison.test_rows} conversations: only large leads show."
    if comparison.primary_metric in ("loss", "nats_per_byte"):
        yield "Likelihood decided: nobody has read the answers. Read some below."
