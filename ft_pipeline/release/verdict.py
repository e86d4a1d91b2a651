"""The verdict: what to do, in one sentence for readers without statistics. It follows from the decision."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from scipy.special import ndtri

from ft_pipeline.decide.exposure import needed_lead
from ft_pipeline.evaluation.comparison.costs import describe_prices
from ft_pipeline.evaluation.comparison.lead_records import PairedDifference
from ft_pipeline.evaluation.comparison.lead_units import IN_PERCENT, IN_POINTS, lead_scale
from ft_pipeline.evaluation.comparison.opinion_records import LABELS, Opinion, ask_for_ratings
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.metrics.definitions import SHARE_OF_FIELDS
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED
from ft_pipeline.evaluation.recommendation.evidence import said_of
from ft_pipeline.release.decision import REJECTED, Decision
from ft_pipeline.release.promotion_rules import ALREADY

Kind = Literal["use_tuned", "prompt", "retrieval", "undecided", "keep", "none", "replace"]
POWER = float(ndtri(0.8))
"""A number of conversations "would decide" if it shows the present lead in 80 % of the cases."""
HALF_WIDTH = float(ndtri(0.975))
"""Standard errors from a lead to the end of its 95 % interval."""

RIGHT = {
    "exact_match": "are exact",
    "fields_match": "have the right fields",
    "format_valid": "have the right format",
    "call_names": "call the right tools",
    "call_arguments": "have the right calls",
    "call_order": "have the right calls in their order",
}
"""What answers do that count in a metric of the unit "share". Of other metrics they "are right"."""
TWO_KEYS = (
    "Decided by two things: how well it predicts people's answers, and how similar its own answers are to them. "
    "Neither says how many answers are right."
)


@dataclass(frozen=True)
class Verdict:
    """What to do."""

    kind: Kind
    sentence: str
    basis: str
    """What it rests on: how many trainings, and what decided. Empty if nothing was compared."""
    row: str | None
    """The row that it names."""

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON."""
        return asdict(self)


def verdict(
    comparison: Comparison, decision: Decision, champion_row: str | None, has_champion: bool | None = None
) -> Verdict:
    """Return the verdict.

    champion_row: the row of the champion before the decision; None if it has none. has_champion: whether there is one;
    default: whether it has a row.
    """
    champion = comparison.row(champion_row)
    if decision.move:
        moved = comparison.row(decision.name)
        found = _still_open(comparison, decision, moved) or _use(comparison, moved)
    elif champion is not None:
        found = _still_open(comparison, decision, champion) or _keep(comparison, decision, champion)
    elif has_champion:
        return Verdict("keep", f"Keep the present model: it was not compared. {decision.reasons[-1]}.", "", None)
    else:
        return _tuned_or_prompt(comparison, decision)
    incumbent, own = comparison.incumbent, comparison.row(found.row)
    if incumbent is None or own is None or own.name == incumbent.name or found.kind in ("undecided", "none"):
        return found
    return _against_incumbent(comparison, own, incumbent)


def _against_incumbent(comparison: Comparison, own: ComparisonRow, incumbent: ComparisonRow) -> Verdict:
    """Return whether the model that would be used may replace the one that answers today, because it is not worse."""
    end = f", which ends on {incumbent.ends}" if incumbent.ends else ""
    today, comma = incumbent.name + end, "," if end else ""
    price = describe_prices(own, incumbent)
    best = f" Of your own models, {own.name} is the best."
    check = next((check for check in comparison.incumbent_checks if check.row == own.name), None)
    if check is None and (why := comparison.why_undecided(own, incumbent)):
        sentence = f"Not decided yet: {_ask(comparison, own, incumbent)}. {why}.{best}{price}"
        return Verdict("undecided", sentence, "", own.name)
    if check is None:
        pair = comparison.difference_between(own, incumbent, "chrf")
        seen = f" By chrF, {pair.better} leads by {pair.describe()}." if pair else ""
        sentence = (
            f"Not decided yet: {_ask(comparison, own, incumbent)}. {today}{comma} gives no likelihoods, and "
            f"nothing checks its answers.{seen}{best}{price}"
        )
        return Verdict("undecided", sentence, "", own.name)
    numbers = f"{comparison.label(check)}: {check.describe(3)}.{price}"
    basis = _basis(comparison, own, comparison.deciding_opinion(own, incumbent))
    if check.is_shown:
        sentence = f"Replace {today}{comma} by {own.name}: it is not worse. {numbers}"
        return Verdict("replace", sentence, basis, own.name)
    is_open = comparison.ratings_may_decide and check.metric not in LABELS
    ask = f" To decide between them, {_ask(comparison, own, incumbent)}." if is_open else ""
    sentence = f"Not decided yet: {own.name} is not shown to be as good as {today}. {numbers}{best}{ask}"
    return Verdict("undecided", sentence, basis, own.name)


def _still_open(comparison: Comparison, decision: Decision, prompt: ComparisonRow | None) -> Verdict | None:
    """Return what is not decided about the best tuned model though a prompt becomes or stays the champion; None if
    nothing is. That a prompt beats the plain base model says nothing about tuning."""
    tuned = _best_examined(comparison, decision)
    if prompt is None or prompt.kind not in BASELINES or not prompt.is_usable or tuned is None:
        return None
    failed = decision.failed[tuned.name]
    if not failed or any(line.startswith(REJECTED) for line in failed):
        return None
    examine = _lost_by_merging if failed == [ALREADY] else _tuned_or_prompt
    found = examine(comparison, decision)
    if found is None or found.kind != "undecided":
        return None
    return replace(found, sentence=f"{found.sentence} Until then, {prompt.name} is the champion.")


def _use(comparison: Comparison, row: ComparisonRow | None) -> Verdict:
    """Return the verdict for the row that becomes champion."""
    assert row is not None
    rival = _rival(comparison, row)
    words = _win_in_words(comparison, row, rival) if rival else ""
    number = f": {words}" if words else ""
    basis = _basis(comparison, row, comparison.deciding_opinion(row, rival) if rival else None)
    if row.kind in TUNED:
        prompted = f" with the prompt variant {row.variant}" if row.variant else ""
        sentence = f"Use the fine-tuned model {row.name}{prompted}{number}."
        return Verdict("use_tuned", sentence, basis, row.name)
    if row.passages:
        return Verdict("retrieval", f"Look facts up, as {row.name} does{number}.", basis, row.name)
    return Verdict("prompt", f"Do not fine-tune; prompt it as {row.name}{number}.", basis, row.name)


def _keep(comparison: Comparison, decision: Decision, champion: ComparisonRow) -> Verdict:
    if not champion.is_usable:
        sentence = f"The present model ({champion.name}) should not go out, because it {_fault(champion)}. "
        sentence += "No other candidate passes."
        return Verdict("none", sentence, _basis(comparison, champion), None)
    others = [(comparison.row(name), lines) for name, lines in decision.failed.items()]
    usable = [(row, lines) for row, lines in others if row and row.is_usable and lines != [ALREADY]]
    why, ask, opinion = "no other candidate can be used", "", None
    if usable:
        row, lines = usable[0]
        why, opinion = said_of(row.name, lines[0]), comparison.deciding_opinion(row, champion)
        if _ratings_would_decide(comparison, decision, row, champion):
            ask = f" To decide between them, {_ask(comparison, row, champion)}."
    sentence = f"Keep the present model ({champion.name}): {why}.{ask}"
    return Verdict("keep", sentence, _basis(comparison, champion, opinion), champion.name)


def _examined(comparison: Comparison, decision: Decision) -> list[ComparisonRow]:
    """Return the tuned rows that may be released, best first."""
    return [row for row in comparison.ranked() if row.kind in TUNED and row.name in decision.failed]


def _best_examined(comparison: Comparison, decision: Decision) -> ComparisonRow | None:
    """Return the best sound one of the tuned rows that may be released; the best one if none is sound."""
    rows = _examined(comparison, decision)
    return next((row for row in rows if row.is_sound), rows[0] if rows else None)


def _tuned_or_prompt(comparison: Comparison, decision: Decision) -> Verdict:
    """Return whether the best tuned model, which is not released, or the best prompt is to be used."""
    found = _of_best(comparison, decision)
    return (_lost_by_merging(comparison, decision) or found) if found.kind == "prompt" else found


def _lost_by_merging(comparison: Comparison, decision: Decision) -> Verdict | None:
    """Return that nothing is decided about tuning if a merged model is clearly worse than its adapter, which leads the
    best use of its base model; None if there is no such model."""
    adapters = [row for row in comparison.ranked() if row.kind == "adapter" and row.is_sound]
    merged_rows = [row for row in _examined(comparison, decision) if row.kind == "merged"]
    for merged, adapter in product(merged_rows, adapters):
        bar = comparison.best_baseline(of=merged)
        if bar is None or (adapter.experiment, adapter.variant) != (merged.experiment, merged.variant):
            continue
        lead, lost = comparison.difference(adapter, bar), comparison.difference(adapter, merged)
        if lead is not None and lost is not None and lost.is_clear:
            sentence = (
                f"Not decided yet: {merged.name} lost quality when it was merged. On {comparison.metric().label}, "
                f"{adapter.name} leads it by {lost.describe()}, and {bar.name} by {lead.describe()}. "
                f"`ft promote {adapter.name}` releases the adapter, if it passes."
            )
            return Verdict("undecided", sentence, _basis(comparison, merged), merged.name)
    return None


def _of_best(comparison: Comparison, decision: Decision) -> Verdict:
    """Return whether the best tuned model or the best prompt is to be used."""
    best = _best_examined(comparison, decision)
    bar = comparison.best_baseline(of=best)
    if best is None or bar is None:
        name = bar.name if bar else None
        return Verdict("undecided", "Not decided yet: no tuned model was compared. Train one.", "", name)
    lead, failed = comparison.difference(best, bar), decision.failed[best.name]
    examined = [best] if best.is_sound and lead else _examined(comparison, decision)
    if (unmeasured := _unmeasured(comparison, examined)) is not None:
        sentence = f"Not decided yet: {said_of(unmeasured.name, decision.failed[unmeasured.name][0])}."
        return Verdict("undecided", sentence, _basis(comparison, unmeasured), unmeasured.name)
    opinion = comparison.deciding_opinion(best, bar)
    if not best.is_sound or (not best.is_usable and not bar.is_usable):
        if not bar.is_usable:
            faults = f"{best.name} {_fault(best)}, and {bar.name} {_fault(bar)}"
            return Verdict("none", f"No model can go out: {faults}.", _basis(comparison, best), None)
        return _prompt(comparison, bar, f"{best.name} cannot go out, because it {_fault(best)}")
    if opinion is not None:
        return _not_preferred(comparison, decision, best, bar, opinion)
    if lead is None and comparison.difference(bar, best) is None:
        return Verdict("undecided", f"Not decided yet: {best.name} was not compared with {bar.name}.", "", best.name)
    if lead is None:
        if not bar.is_usable:
            return Verdict("none", f"No model can go out: {bar.name} {_fault(bar)}.", _basis(comparison, bar), None)
        return _prompt(comparison, bar, "no tuned model is better")
    more = _what_would_decide(comparison, decision, best, lead)
    ask = f"{_ask(comparison, best, bar)}. " if _ratings_would_decide(comparison, decision, best, bar) else ""
    sentence = f"Not decided yet: {ask}{said_of(best.name, failed[0])}{more}."
    return Verdict("undecided", sentence, _basis(comparison, best), best.name)


def _unmeasured(comparison: Comparison, rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """Return the first sound row that nothing measures against its bar; None if there is none."""
    with_bars = [(row, bar) for row in rows if row.is_sound and (bar := comparison.best_baseline(of=row)) is not None]
    return next((row for row, bar in with_bars if comparison.why_undecided(row, bar) is not None), None)


def _not_preferred(
    comparison: Comparison, decision: Decision, row: ComparisonRow, bar: ComparisonRow, opinion: Opinion
) -> Verdict:
    """Return the verdict if people, or a judge, do not clearly prefer a tuned model to the best prompt."""
    if opinion.is_clear_loss and bar.is_usable:
        return _prompt(comparison, bar, f"the answers of {row.name} were {opinion.describe()}", opinion)
    test = next((test for test in decision.tests if test.name == row.name), None)
    more = ""
    if test is not None and opinion.low is not None and opinion.win_rate > 0.5:
        error = (opinion.win_rate - opinion.low) / HALF_WIDTH
        shown = ((needed_lead(test.level) + POWER) * error / (opinion.win_rate - 0.5)) ** 2
        missing = math.ceil(opinion.rated * (shown - 1))
        more = f"; about {missing:,} more ratings would decide" if 0 < missing <= comparison.test_items else ""
    ask = f"{_ask(comparison, row, bar)}. " if _ratings_would_decide(comparison, decision, row, bar) else ""
    sentence = f"Not decided yet: {ask}{said_of(row.name, decision.failed[row.name][0])}{more}."
    return Verdict("undecided", sentence, _basis(comparison, row, opinion), row.name)


def _ratings_would_decide(comparison: Comparison, decision: Decision, row: ComparisonRow, rival: ComparisonRow) -> bool:
    """Return whether people's ratings would decide between a row and a rival, since nothing else is missing.

    The row was tested, and leads by a judge or on the metric: one that trails is not worth the work. People have not
    decided yet.
    """
    was_tested = any(test.name == row.name for test in decision.tests)
    is_asked = any("`ft rate " in line for line in decision.failed[row.name])
    opinion = comparison.deciding_opinion(row, rival)
    if opinion is None:
        leads = comparison.difference(row, rival) is not None
    else:
        leads = opinion.by == "judge" and opinion.win_rate > 0.5 and not opinion.is_clear_win
    return was_tested and leads and comparison.ratings_may_decide and not is_asked


def _ask(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> str:
    """Return the command with which people rate as many pairs of two rows as are missing."""
    return ask_for_ratings(row.name, rival.name, comparison.opinions_on(row, rival))


def _prompt(comparison: Comparison, bar: ComparisonRow, why: str, opinion: Opinion | None = None) -> Verdict:
    how = "use the base model as it is" if bar.kind == "base" else f"prompt it as {bar.name}"
    return Verdict("prompt", f"Do not fine-tune; {how}: {why}.", _basis(comparison, bar, opinion), bar.name)


def _fault(row: ComparisonRow) -> str:
    """Return what is wrong with a row that cannot go out."""
    if row.breaches:
        return f"fails: {row.breaches[0].describe()}"
    forgets = row.forgetting is not None and row.forgetting.verdict == "forgets"
    if row.lost_checks and not forgets:
        return row.lost_checks[0].describe().rstrip(".").replace("Fails", "fails", 1)
    return row.forgetting.describe().rstrip(".").lower() if row.forgetting else "was not checked"


def _what_would_decide(comparison: Comparison, decision: Decision, row: ComparisonRow, lead: PairedDifference) -> str:
    """Return how many more test conversations would show the present lead, if these are what is missing."""
    test = next((test for test in decision.tests if test.name == row.name), None)
    if test is None or lead.low is None or lead.difference <= 0:
        return ""
    error = (lead.difference - lead.low) / HALF_WIDTH
    wanted = comparison.test_rows * ((needed_lead(test.level) + POWER) * error / lead.difference) ** 2
    more = math.ceil(wanted - comparison.test_rows)
    return f"; about {more:,} more test conversations would decide" if more > 0 else ""


def _rival(comparison: Comparison, row: ComparisonRow) -> ComparisonRow | None:
    """Return what a row is measured against in a sentence: the best use of its base model, or that without a prompt."""
    best = comparison.best_baseline(of=row)
    if best is not None and best.name != row.name:
        return best
    return next((base for base in comparison.rows if base.kind == "base" and base.name != row.name), None)


def _win_in_words(comparison: Comparison, row: ComparisonRow, rival: ComparisonRow) -> str:
    """Return by what a row wins: the opinion that decides, or else its lead; empty if it has none."""
    if (opinion := comparison.deciding_opinion(row, rival)) is not None:
        return f"its answers were {opinion.describe()}"
    pair = comparison.difference(row, rival)
    return in_words(comparison, row, pair) if pair else ""


def in_words(comparison: Comparison, row: ComparisonRow, pair: PairedDifference) -> str:
    """Return the lead of a row in words: percent of the nats that are saved, points of right answers, or a number."""
    metric, rival = comparison.metric(pair.metric), comparison.row(pair.worse)
    ends = None if pair.low is None or pair.high is None else (pair.low, pair.high)
    if pair.metric in IN_PERCENT and rival is not None:
        scale = lead_scale(comparison, pair.metric, rival)
        saved = f"{pair.difference * scale:.0f} %{_range(ends, scale)}"
        checked = any(check.row == row.name and check.is_shown for check in comparison.answer_checks)
        same = ", and its own answers are at least as similar to them" if checked else ""
        return f"it predicts the answers that people wrote {saved} better than {pair.worse}{same}"
    if metric.unit in IN_POINTS and not metric.lower_is_better and rival is not None:
        own, other = (f"{each.scores[pair.metric].value * 100:.0f} %" for each in (row, rival))
        what = f"its {'fields' if metric.unit == SHARE_OF_FIELDS else 'answers'} {RIGHT.get(pair.metric, 'are right')}"
        lead = f"a lead of {pair.difference * 100:.0f} points{_range(ends, 100)}"
        return f"{own} of {what}, and {other} of those of {pair.worse}: {lead}"
    return f"it leads {pair.worse} by {pair.describe()} on {metric.label}"


def _range(ends: tuple[float, float] | None, scale: float) -> str:
    return "" if ends is None else f" ({ends[0] * scale:.0f} to {ends[1] * scale:.0f})"


def _basis(comparison: Comparison, row: ComparisonRow, opinion: Opinion | None = None) -> str:
    """Return what the verdict rests on. opinion: the one that decided; None: a metric did."""
    trainings = max((lead.trainings for lead in comparison.recipe_leads_of(row)), default=1)
    trained = (
        "" if row.kind not in TUNED else "trained once, " if trainings == 1 else f"the same in {trainings} trainings, "
    )
    tested = f"{trained}tested on {comparison.test_rows:,} conversations. "
    decided = TWO_KEYS if comparison.answer_checks else comparison.decided_by
    if opinion is not None:
        decided = f"Decided by {opinion.who}. {opinion.agreement}"
    return f"{tested[0].upper()}{tested[1:]}{decided}".strip()
