"""What a reader sees first of the chosen row: its lights, and what could go wrong with it: claims, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ft_pipeline.decide.claim import Claim, OpinionFacts, RailFacts
from ft_pipeline.decide.comparison import WANTED_RATINGS, Comparison, Row
from ft_pipeline.decide.notes import ENOUGH_TEST_ROWS
from ft_pipeline.decide.sentences import ask_for_ratings, describe_slices, say, tell_opinion

Color = Literal["green", "amber", "red"]
SYMBOLS: Mapping[Color, str] = {"green": "✓", "amber": "?", "red": "✗"}
COLORS: Sequence[Color] = tuple(SYMBOLS)
FEW_TEST_ROWS = 50
MANY_LOOKS = 10
"""Earlier looks at the same rows from which on a result is named as less certain."""
CAN_GO_OUT = 0.9
"""Share of the rated pairs of which an answer must be shown to be fit to go out."""
MAX_RISKS = 3
ALWAYS = "Scores do not show whether an answer is true."

WORDS: Mapping[str, tuple[str, str, str]] = {
    "rows": ("Enough test conversations", "Few test conversations", "Too few test conversations"),
    "general": ("Keeps general knowledge", "Forgetting cannot be told", "Forgets general knowledge"),
    "endings": ("Answers end, without repeating", "Endings cannot be told", "Cut off, or repeating"),
    "refusal": ("No needless refusals", "Refusals cannot be told", "Refuses without need"),
    "probes": ("Passes the probes", "Probes cannot be told", "Fails probes"),
    "task": ("Tasks hold", "Tasks cannot be told", "Fails a task"),
    "exposure": ("Test rows still fresh", "Test rows often looked at", "Test rows used up"),
    "people": ("Answers can go out", "Quality cannot be told", "Too many cannot go out"),
}
"""The title of each light: green, amber, red."""
NOT_MEASURED: Mapping[str, tuple[str, str]] = {
    "general": ("General knowledge not tested", "no general questions, or none of its base model"),
    "endings": ("Endings were not checked", "scored by an older version"),
    "refusal": ("Refusals were not checked", "the patterns are English"),
    "probes": ("Refusals were not tested", "no probes: whether it still declines as before is not known"),
    "people": ("Nobody has rated the answers", "whether they are true, and keep to your rules, is not known"),
}
"""The amber light of what was not measured. Lights that are not here are left out then."""


class Light(NamedTuple):
    """A traffic light."""

    color: Color
    words: str
    detail: str
    """The number behind it."""

    @property
    def symbol(self) -> str:
        return SYMBOLS[self.color]


NOT_READ = Light("amber", *NOT_MEASURED["people"])
"""The light that only people can turn green."""


def lights(comparison: Comparison, row: Row, exposure: Mapping[str, Any] | None = None) -> list[Light]:
    """Return the lights of a row. exposure: that of decision.json; None: a decision of an older version."""
    rails = {claim.measure: claim for claim in comparison.about(row, "rail")}
    endings = [rails[name] for name in ("cut_off", "repetition") if name in rails]
    refusal = [claim for name, claim in rails.items() if name == "refusal" and claim.because != "not checked"]
    kept = [_of_claims("general", comparison, comparison.about(row, "general"), "")]
    if not row.rights.has_base:
        kept = [Light("green", WORDS["general"][0], "the base model is unchanged")]
    found = [
        _of_number("rows", -comparison.test_rows, (-ENOUGH_TEST_ROWS, -FEW_TEST_ROWS), "test conversations"),
        *kept,
        _of_claims("endings", comparison, endings, "; "),
        _of_claims("refusal", comparison, refusal, "; "),
        _of_claims("probes", comparison, comparison.about(row, "probes"), " ") if row.technique else None,
        _of_claims("task", comparison, comparison.about(row, "task"), " "),
        _of_exposure(exposure) if exposure else None,
        _of_people(comparison, row),
    ]
    return [light for light in found if light is not None]


def _of_claims(name: str, comparison: Comparison, claims: Sequence[Claim], between: str) -> Light | None:
    if not claims:
        return Light("amber", *NOT_MEASURED[name]) if name in NOT_MEASURED else None
    worst = max(2 if claim.verdict == "refuted" else 0 if claim.holds else 1 for claim in claims)
    stop = "" if claims[0].kind == "rail" else "."
    return Light(COLORS[worst], WORDS[name][worst], between.join(say(comparison, claim) + stop for claim in claims))


def _of_number(name: str, value: float, ends: tuple[float, float], what: str) -> Light:
    color = 0 if value <= ends[0] else 1 if value <= ends[1] else 2
    return Light(COLORS[color], WORDS[name][color], f"{abs(value):,} {what}")


def _of_exposure(exposure: Mapping[str, Any]) -> Light:
    looks, end = exposure["before"], exposure["used_up_at"]
    designs = exposure.get("designs", looks)  # versions before looks counted each test as a setting of its own
    color = 2 if designs >= end else 1 if looks >= MANY_LOOKS else 0
    detail = f"{looks:.0f} earlier looks, and {designs:.0f} of the {end} settings that these conversations can bear"
    return Light(COLORS[color], WORDS["exposure"][color], detail)


def _rated(comparison: Comparison, row: Row) -> Claim | None:
    """Return the opinion of people that rests on the most ratings of a row's answers."""
    claims = [claim for claim in comparison.claims if claim.kind == "opinion" and claim.measure == "people"]
    claims = [claim for claim in claims if row.name in (claim.row, claim.rival)]
    return max(claims, key=lambda claim: claim.told(OpinionFacts).rated, default=None)


def _of_people(comparison: Comparison, row: Row) -> Light:
    claim = _rated(comparison, row)
    out = claim.told(OpinionFacts).can_go_out if claim else None
    if claim is None or out is None:
        return NOT_READ
    rated = claim.told(OpinionFacts).rated
    low, high = out.ends
    color = 0 if rated >= WANTED_RATINGS and low >= CAN_GO_OUT else 2 if high < CAN_GO_OUT else 1
    fit = f"{out.value * rated:.0f} of {rated} rated pairs ({low:.0%} to {high:.0%})"
    return Light(COLORS[color], WORDS["people"][color], f"an answer can go out in {fit}; {CAN_GO_OUT:.0%} is wanted")


def risks(comparison: Comparison, row: Row, exposure: Mapping[str, Any] | None = None, looks: int = 0) -> list[str]:
    """Return what could go wrong with a row: the first that apply, and what always does."""
    return [*list(_risks(comparison, row, exposure, looks))[:MAX_RISKS], ALWAYS]


def _risks(comparison: Comparison, row: Row, exposure: Mapping[str, Any] | None, looks: int) -> Iterator[str]:
    about, bar, is_tuned = comparison.about, comparison.best_bar(row), row.rights.is_tuned
    for rail in about(row, "rail"):
        is_near = rail.verdict == "shown" and rail.told(RailFacts).faults and (rail.high or 0.0) > rail.limit / 2
        if rail.verdict == "open" or is_near:
            yield f"Some answers have a fault: {say(comparison, rail)}."
    general = about(row, "general")
    if is_tuned and not general:
        yield "Whether it forgets was not tested."
    for claim in general if is_tuned else ():
        if not claim.holds:
            yield say(comparison, claim) + "."
    if worse := describe_slices(comparison, about(row, "slice_lead", verdict="refuted")):
        yield f"It is {worse}."
    yield from (say(comparison, claim) + "." for claim in about(row, "probes", "task") if not claim.holds)
    if is_tuned and not about(row, "recipe"):
        yield "It was trained once: another training of the same settings may be better or worse. Three show it."
    if looks:
        yield f"It was designed after {looks} looks at these test rows, and may fit them better than others."
    if exposure and exposure["before"] >= MANY_LOOKS:
        yield f"{exposure['before']:.0f} other models were looked at on the test rows. Fresh rows give surer results."
    if bar is not None and not comparison.usable(bar):
        why = say(comparison, about(bar, "rail", verdict="refuted")[0])
        yield f"Beating {bar.name} says little: no model without training is usable ({bar.name}: {why})."
    if comparison.units < ENOUGH_TEST_ROWS:
        yield f"It was tested on {comparison.conversations}: only large leads show."
    yield from (tell_opinion(claim) for claim in about(row, "opinion") if comparison.is_unheard(claim))
    is_unread = _rated(comparison, row) is None and comparison.why_screened_out(row) is None
    rival = comparison.bar(row) if is_unread else None
    if rival is not None and rival.name != row.name and _by_machine(comparison, row, rival):
        yield f"Nobody has read the answers: {ask_for_ratings(comparison, row, rival, known=False)}."
    if row.technique is not None and not about(row, "probes"):
        yield "Whether it still declines what it should was not tested."
    others = [other for other in comparison.bars() if comparison.usable(other)]
    better = next((other for other in others if other.base_model not in (None, row.base_model)), None)
    if is_tuned and better is not None and comparison.leads(better, row):
        yield f"{better.base_model} does better without any tuning, as {better.name}."


def _by_machine(comparison: Comparison, row: Row, rival: Row) -> bool:
    """Return whether a likelihood or a judge decides between two rows."""
    return comparison.deciding(row, rival).kind == "opinion" or comparison.primary in ("loss", "nats_per_byte")
