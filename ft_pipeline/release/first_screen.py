"""What a reader sees first: how the chosen row stands (lights), what it costs, and what could go wrong with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.evaluation.comparison.base_check_records import BaseCheck
from ft_pipeline.evaluation.comparison.costs import format_duration
from ft_pipeline.evaluation.comparison.opinion_records import WANTED_RATINGS, Opinion, ask_for_ratings
from ft_pipeline.evaluation.comparison.records import ENOUGH_TEST_ROWS, Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow, Rail, TrainingCost
from ft_pipeline.evaluation.comparison.slice_records import slices_of
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED

FEW_TEST_ROWS = 50
"""Test conversations below which a light is red. It is green from ENOUGH_TEST_ROWS on."""
MAX_RISKS = 3
MANY_TESTS = 10
"""Earlier tests on the same rows from which on a result is named as less certain."""
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


NOT_READ = Light("amber", "Nobody has rated the answers", "whether they are true, and keep to your rules, is not known")
"""The light that only people can turn green."""
CAN_GO_OUT = 0.9
"""Share of the rated pairs of which an answer must be shown to be fit to go out."""


@dataclass(frozen=True)
class CostLine:
    """What 1,000 answers of a row cost."""

    name: str
    cost: str
    """In the currency of `costs`; empty if there are no prices."""
    seconds: str
    prompt_tokens: str
    training: str
    """What its training took, once."""
    paid_back: str
    """After how many answers the training is paid back, against the bar."""


def lights(comparison: Comparison, row: ComparisonRow, exposure: Mapping[str, Any] | None = None) -> list[Light]:
    """Return the lights of a row. exposure: that of decision.json; None: a decision of an older version."""
    found = [_of_test_rows(comparison.test_rows), _of_forgetting(row), _of_endings(row), _of_refusals(row)]
    found += [*_of_probes(row), *_of_tasks(row)]
    return [*found, *([_of_exposure(exposure)] if exposure else []), _of_people(comparison, row)]


def cost_lines(comparison: Comparison, row: ComparisonRow) -> list[CostLine]:
    """Return what 1,000 answers cost: of the chosen row, of the best use of its base model, of the champion and of what
    others serve: the teacher and the contenders."""
    others = [comparison.best_baseline(of=row)]
    others += [other for other in comparison.rows if other.kind in ("champion", "teacher", "contender")]
    names = list(dict.fromkeys([row.name, *(other.name for other in others if other)]))
    return [_cost_line(comparison, other) for name in names if (other := comparison.row(name))]


def _cost_line(comparison: Comparison, row: ComparisonRow) -> CostLine:
    entry = next((entry for entry in comparison.break_even if entry.tuned == row.name), None)
    calls = [] if entry is None else [entry.calls_by_cost, entry.calls_by_time]
    paid = next((f"{count:,} answers" for count in calls if count is not None), "never" if entry else "")
    cost, seconds, tokens = row.cost_per_1000, row.seconds_per_call, row.prompt_tokens_per_call
    return CostLine(
        f"{row.name} (ends on {row.ends})" if row.ends else row.name,
        "" if cost is None else f"{cost:,.2f}",
        "" if seconds is None else format_duration(1000 * seconds),
        "" if tokens is None else f"{1000 * tokens:,.0f}",
        "" if row.training is None else _training(row.training),
        paid,
    )


def _training(training: TrainingCost) -> str:
    cost = "" if training.cost is None else f", {training.cost:,.2f}"
    return f"{format_duration(training.seconds)}{cost}"


def _of_exposure(exposure: Mapping[str, Any]) -> Light:
    uses, end = exposure["before"] + exposure["tests"], exposure["used_up_at"]
    color: Color = "green" if uses < MANY_TESTS else "amber" if uses < end else "red"
    words = {"green": "Test rows still fresh", "amber": "Test rows often used", "red": "Test rows used up"}
    return Light(color, words[color], f"{uses:.0f} of the {end} tests that these conversations can bear")


def _of_people(comparison: Comparison, row: ComparisonRow) -> Light:
    """Return what people say of the answers: the share of the pairs with one that can go out."""
    opinion = _read_by_people(comparison, row)
    if opinion is None or opinion.can_go_out is None:
        return NOT_READ
    share, (low, high) = opinion.can_go_out, opinion.can_go_out.ends
    color: Color = "amber"
    if opinion.rated >= WANTED_RATINGS and low >= CAN_GO_OUT:
        color = "green"
    elif high < CAN_GO_OUT:
        color = "red"
    words = {"green": "Answers can go out", "amber": "Quality cannot be told", "red": "Too many cannot go out"}
    fit = f"{share.value * opinion.rated:.0f} of {opinion.rated} rated pairs ({low:.0%} to {high:.0%})"
    return Light(color, words[color], f"an answer can go out in {fit}; {CAN_GO_OUT:.0%} is wanted")


def _read_by_people(comparison: Comparison, row: ComparisonRow) -> Opinion | None:
    """Return the opinion of people that rests on the most ratings of a row's answers; None if nobody rated them."""
    opinions = [entry for entry in comparison.opinions if entry.by == "people" and row.name in (entry.row, entry.rival)]
    return max(opinions, key=lambda entry: entry.rated, default=None)


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


def _of_probes(row: ComparisonRow) -> list[Light]:
    """Return the light of the probes; none for a row without training."""
    if row.technique is None:
        return []
    checks = [check for check in row.base_checks if check.kind == "probes"]
    if not checks:
        return [
            Light("amber", "Refusals were not tested", "no probes: whether it still declines as before is not known")
        ]
    return [_of_checks(checks, {"green": "Passes the probes", "amber": "Probes cannot be told", "red": "Fails probes"})]


def _of_tasks(row: ComparisonRow) -> list[Light]:
    """Return the light of the tasks that must hold; none without such tasks."""
    checks = [check for check in row.base_checks if check.kind == "task"]
    words: dict[Color, str] = {"green": "Tasks hold", "amber": "Tasks cannot be told", "red": "Fails a task"}
    return [_of_checks(checks, words)] if checks else []


def _of_checks(checks: Sequence[BaseCheck], words: Mapping[Color, str]) -> Light:
    """Return the light of what a model must keep of its base model."""
    is_lost = any(check.verdict == "lost" for check in checks)
    color: Color = "red" if is_lost else "amber" if any(check.prevents_release for check in checks) else "green"
    return Light(color, words[color], " ".join(check.describe() for check in checks))


def _color(rail: Rail) -> Color:
    return "red" if rail.verdict == "breach" else "amber" if rail.verdict == "cannot be told" else "green"


def risks(
    comparison: Comparison, row: ComparisonRow, exposure: Mapping[str, Any] | None = None, looks: int = 0
) -> list[str]:
    """Return what could go wrong with a row: the first that apply, and what always does.

    exposure: as for lights. looks: the decisions on these rows before its settings first appeared.
    """
    return [*list(_risks(comparison, row, exposure, looks))[:MAX_RISKS], ALWAYS]


def _is_unread(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> bool:
    """Return whether a likelihood or a judge decides between two rows, and people rated no answers of the row."""
    opinion = comparison.deciding_opinion(row, rival)
    by_machine = opinion is not None or comparison.primary_metric in ("loss", "nats_per_byte")
    return row.name != rival.name and by_machine and _read_by_people(comparison, row) is None


def _risks(comparison: Comparison, row: ComparisonRow, exposure: Mapping[str, Any] | None, looks: int) -> Iterator[str]:
    for rail in row.rails:
        if rail.verdict == "cannot be told" or (
            rail.verdict == "pass" and rail.faults and rail.high > rail.ceiling / 2
        ):
            yield f"Some answers have a fault: {rail.describe()}."
    if row.kind in TUNED and (row.forgetting is None or row.forgetting.verdict != "kept"):
        yield row.forgetting.describe() if row.forgetting else "Whether it forgets was not tested."
    parts = slices_of(comparison, row)
    if parts and parts.row == row.name and (worse := parts.describe_worse()):
        yield f"It is {worse}."
    for check in row.base_checks:
        if check.prevents_release:
            yield check.describe()
    if row.kind in TUNED and not comparison.recipe_leads_of(row):
        yield "It was trained once: another training of the same settings may be better or worse. Three show it."
    if looks:
        yield f"It was designed after {looks} looks at these test rows, and may fit them better than others."
    if exposure and exposure["before"] >= MANY_TESTS:
        yield f"The test rows were part of {exposure['before']:.0f} earlier tests. Fresh rows give surer results."
    baseline = comparison.best_baseline(of=row)
    if baseline is not None and not baseline.is_usable:
        why = f"{baseline.name}: {baseline.breaches[0].describe()}"
        yield f"Beating {baseline.name} says little: no model without training is usable ({why})."
    if comparison.test_rows < ENOUGH_TEST_ROWS:
        yield f"It was tested on {comparison.test_rows} conversations: only large leads show."
    unheard = [opinion for opinion in comparison.opinions if opinion.row == row.name and opinion.is_unheard_loss]
    yield from (opinion.describe_fully() for opinion in unheard)
    rival = comparison.bar_of(row)
    if rival is not None and _is_unread(comparison, row, rival):
        yield f"Nobody has read the answers: {ask_for_ratings(row.name, rival.name)}."
    if row.technique is not None and not any(check.kind == "probes" for check in row.base_checks):
        yield "Whether it still declines what it should was not tested."
    others = [other for other in comparison.ranked() if other.kind in BASELINES and other.is_usable]
    better = next((other for other in others if other.base_model not in (None, row.base_model)), None)
    if row.kind in TUNED and better is not None and comparison.difference(better, row) is not None:
        yield f"{better.base_model} does better without any tuning, as {better.name}."
