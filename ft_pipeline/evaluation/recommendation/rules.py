"""Recommend what to do, by explicit rules on the measured comparison (docs: the table "When do you do what").

What to use now, and the sentence that concludes, are those of the verdict (release/verdict.py). The rules in DECISIONS
are asked in order for the first reason, which explains it or says what could change it. Without a verdict, and while it
is open, the first that applies decides, too. The rules in observations.py then add what else the scores show.
"Clearly" always means that the paired 95 % interval of the difference excludes zero.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.comparison.opinion_records import ask_for_ratings
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow, complexity_of
from ft_pipeline.evaluation.model_kinds import SIMPLEST_FIRST, TUNED, complexity
from ft_pipeline.evaluation.recommendation.evidence import (
    ENOUGH_ROWS,
    ComparisonFacts,
    Recommendation,
    baseline_phrase,
    evidence,
    faults_of,
)
from ft_pipeline.evaluation.recommendation.observations import OBSERVATIONS

TOO_FEW_ROWS = 100
"""With fewer training rows, a tuned model that is not clearly ahead says nothing about tuning."""


def build_recommendation(facts: ComparisonFacts, verdict: str, out: Path) -> dict[str, Any]:
    """Write recommendation.json to `out` and return it. verdict: the sentence of the decision that it follows."""
    recommendation = {"verdict": verdict, **recommend(facts)}
    (out / "recommendation.json").write_text(json.dumps(recommendation, indent=2, ensure_ascii=False), encoding="utf-8")
    return recommendation


def recommend(facts: ComparisonFacts) -> dict[str, Any]:
    """Return the document of `ft recommend --json`, without its verdict.

    Keys: decision, experiment (to use, or to distill into; None for a baseline), row (of the comparison, to use; None
    if there is none), reasons, evidence.
    """
    recommendation = next(filter(None, (rule(facts) for rule in DECISIONS)))
    observations = filter(None, (rule(facts, recommendation) for rule in OBSERVATIONS))
    decision, row = _by_verdict(facts, recommendation) if facts.decided else _by_rule(facts, recommendation)
    experiment_row = recommendation.row if decision == "distillation" else row
    return {
        "decision": decision,
        "experiment": experiment_row.experiment if experiment_row else None,
        "row": row.name if row else None,
        "reasons": [*filter(None, [recommendation.reason]), *observations],
        "evidence": evidence(facts, recommendation),
    }


def _by_rule(facts: ComparisonFacts, recommendation: Recommendation) -> tuple[str, ComparisonRow | None]:
    """Return the decision and the row to use if there is no verdict."""
    if recommendation.decision == "distillation":
        return "distillation", facts.teacher
    is_tuned = recommendation.decision in SIMPLEST_FIRST
    return recommendation.decision, recommendation.row if is_tuned else facts.bar_of(recommendation.row)


def _by_verdict(facts: ComparisonFacts, recommendation: Recommendation) -> tuple[str, ComparisonRow | None]:
    """Return the decision and the row to use by the verdict. While it is open, the decision is the next step, and
    without a champion, the row is the best baseline."""
    assert facts.decided is not None
    row, bar = facts.decided_row, facts.bar_of(recommendation.row)
    if facts.decided.kind == "none":
        return "none", None
    if facts.is_open:
        ask = "rate" if facts.decided.asks_for_ratings else "more_data"
        step = recommendation.decision if recommendation.decision in ("distillation", "rate") else ask
        return step, row or (bar if bar and bar.is_usable else None)
    if row is None:
        return "keep", None  # the champion was not compared
    return row.technique or ("retrieval" if row.passages else "prompt"), row


# --- deciding rules ---------------------------------------------------------------------------------------------------


def too_few_tests(facts: ComparisonFacts) -> Recommendation | None:
    """More data: on a few test conversations, chance decides."""
    count, least = facts.comparison.test_rows, facts.min_test_rows
    if count >= least or not facts.tuned_rows:
        return None
    reason = (
        f"{count} test conversations are too few, {least} are needed. Add data: {least - count} more conversations in "
        "the test split."
    )
    return Recommendation("more_data", reason, facts.tuned_rows[0])


def teacher_leads(facts: ComparisonFacts) -> Recommendation | None:
    """Distillation: a teacher that is clearly better than every baseline and tuned model can teach the small model."""
    if facts.teacher is None or not facts.teacher_leads():
        return None
    lead, costs = facts.describe(facts.answer_difference(facts.students[0])), _describe_costs(facts.teacher)
    student = next(iter(facts.sound_rows), None)
    reason = (
        f"The teacher's answers are clearly better than those of every baseline and tuned model: {lead} "
        "What could change the decision: more distillation, with more unlabeled prompts and a higher weight of "
        f"distilled rows{' in ' + str(student.experiment) if student else ''}; or the teacher itself, at its {costs}."
    )
    return Recommendation("distillation", reason, student)


def facts_are_missing(facts: ComparisonFacts) -> Recommendation | None:
    """Retrieval: a gain from passages that tuning does not reach comes from facts, which an adapter does not learn.
    Only if the verdict is to use them."""
    with_passages, without_passages = facts.with_passages, facts.without_passages
    if facts.decided and (facts.is_open or facts.decided_row != with_passages):
        return None
    best = facts.best_tuned if facts.sound_rows else None
    if (
        with_passages is None
        or without_passages is None
        or not facts.passages_help()
        or (best and facts.clearly_better(best, with_passages))
    ):
        return None
    reason = (
        f"The model lacks facts, so use retrieval: with passages of data/raw/text the base model clearly improves. "
        f"{facts.describe(facts.lead(with_passages, without_passages))}"
    )
    if best is not None and facts.why_undecided(best) is None:
        pair = facts.comparison.difference_between(with_passages, best)
        reason += (
            f" No tuned model is clearly better; adapters change style more readily than facts. {facts.describe(pair)}"
        )
    return Recommendation("retrieval", reason, best)


def nothing_tuned(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: the way to start. It needs no training, and changes take effect at once."""
    if facts.tuned_rows:
        return None
    if facts.comparison.contaminated_experiments:
        return Recommendation("prompt", "No tuned model can be compared until it is trained again.")
    reason = "No model has been tuned yet: only an experiment shows whether tuning does better than prompting."
    return Recommendation("prompt", reason)


def no_model_is_sound(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: a gain on the task does not justify forgetting, or answers that nobody can send."""
    if facts.sound_rows:
        return None
    best = facts.tuned_rows[0]
    reason = (
        f"No tuned model can be used. {best.name}: {'; '.join(faults_of(best))}. What could change that: a lower "
        "learning rate, fewer epochs, or corrected training data."
    )
    return Recommendation("prompt", reason, best)


def champion_stays(facts: ComparisonFacts) -> Recommendation | None:
    """The technique of the champion: no candidate is shown to be better than a tuned model that is in use."""
    champion = facts.decided_row
    if facts.decided is None or facts.decided.moves or champion is None or champion.technique is None:
        return None
    return Recommendation(champion.technique, "", champion)


def not_shown(facts: ComparisonFacts) -> Recommendation | None:
    """More data: a tuned model leads, but does not meet every requirement of a release, or may lead."""
    best, used = facts.best_tuned, facts.decided_row
    if facts.decided is None:
        return None
    if not facts.is_open and (not facts.beats_baselines(best) or (used is not None and used.kind in TUNED)):
        return None
    bar = facts.bar_of(best)
    return Recommendation("more_data", facts.describe_lead(best, bar) if bar else "", best)


def evidence_is_missing(facts: ComparisonFacts) -> Recommendation | None:
    """Rate: no tuned model is shown to be better, and of one nothing that was measured says whether it is."""
    if not facts.undecided_rows or any(facts.beats_baselines(row) for row in facts.sound_rows):
        return None
    row = facts.undecided_rows[0]
    bar = facts.bar_of(row)
    assert bar is not None
    ask = ask_for_ratings(row.name, bar.name, facts.comparison.opinions_on(row, bar))
    return Recommendation("rate", f"To decide about {row.name}, {ask}. {facts.why_undecided(row)}.", row)


def too_few_rows(facts: ComparisonFacts) -> Recommendation | None:
    """More data: a tuned model that is not ahead yet may get ahead with more training rows.

    Applies to fewer than 100 training rows always; to fewer than 500 if prompting does not help either and the learning
    curve is not flat; to any number if the curve still rises and one more step like its last would reach the best
    baseline.
    """
    best = facts.best_tuned
    baseline = baseline_phrase(facts.bar_of(best))
    rows = facts.train_rows(best)
    if rows is None or facts.beats_baselines(best):
        return None
    if _has_few_rows(facts, best, rows):
        reason = (
            f"Too little data: {best.name} was trained on {rows} rows and is not clearly better than {baseline}. "
            f"About {ENOUGH_ROWS} rows could change that."
        )
        return Recommendation("more_data", reason, best)
    if facts.one_step_closes_gap(best):
        reason = (
            f"More data should help: {best.name} is not clearly better than {baseline} yet. More rows still improve "
            f"it, and one more step like the last would close the gap. More than its {rows} rows could change that."
        )
        return Recommendation("more_data", reason, best)
    return None


def _has_few_rows(facts: ComparisonFacts, row: ComparisonRow, train_rows: int) -> bool:
    """Return whether a tuned row was trained on too few rows to say that tuning does not help."""
    if train_rows < TOO_FEW_ROWS:
        return True
    baseline, plain = facts.bar_of(row), facts.plain_of(row)
    prompting_helps = baseline is not None and plain is not None and facts.clearly_better(baseline, plain)
    curve = facts.learning_curve(row)
    curve_is_flat = curve is not None and curve.is_flat
    return train_rows < ENOUGH_ROWS and not prompting_helps and not curve_is_flat


def prompting_is_enough(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: fine-tuning is recommended only if it is clearly better than prompting."""
    best = facts.best_tuned
    bar = facts.bar_of(best)
    if bar is None or facts.beats_baselines(best):
        return None
    prompting, lead_of_prompting = baseline_phrase(bar), facts.lead(bar, best)
    if facts.deciding_opinion(best, bar) is not None:
        reason = f"The answers of {best.name} are not shown to be better than those of {prompting}. "
        return Recommendation("prompt", f"{reason}{facts.describe_lead(best, bar)}", best)
    if lead_of_prompting is not None:
        reason = f"{prompting[0].upper()}{prompting[1:]} is at least as good. {facts.describe(lead_of_prompting)}"
        return Recommendation("prompt", reason, best)
    lead = facts.describe(facts.lead(best, bar))
    for check in facts.comparison.failed_answer_checks(best, bar) if facts.clearly_better(best, bar) else ():
        label = facts.comparison.metric(check.metric).label
        reason = f"{best.name} expects the reference answers better than {prompting}, but its own answers are not "
        reason += f"shown to be as good. {lead} {label}: {check.describe()}."
        return Recommendation("prompt", reason, best)
    return Recommendation("prompt", f"No tuned model is clearly better than {prompting}. {lead}", best)


def tuning_wins(facts: ComparisonFacts) -> Recommendation | None:
    """Fine-tune: the best sound row, or a simpler technique that is shown to keep most of its lead.

    The simpler technique must clearly beat the best baseline too.
    """
    best = facts.best_tuned
    as_good = [
        row
        for row in facts.sound_rows
        if facts.beats_baselines(row) and (kept := facts.kept_lead(row)) is not None and kept.is_shown
    ]
    simplest = min([best, *as_good], key=lambda row: (*complexity_of(row), facts.sound_rows.index(row)))
    chosen = facts.decided_row or simplest
    bar = facts.bar_of(chosen)
    lead = facts.describe_lead(chosen, bar) if bar else ""
    reason = f"Only {chosen.name} was scored."
    if lead:
        reason = f"Tuning pays off: {chosen.name} beats the best use of its base model. {lead}"
    kept = facts.kept_lead(chosen)
    if complexity_of(chosen) < complexity_of(best) and kept:
        simpler = f"{chosen.technique} is the simpler technique"
        if chosen.technique == best.technique:
            simpler = "its prompt is the simpler one"
        reason += (
            f" It keeps {kept.share:.0%} of the lead of {kept.best} (at least {kept.wanted:.0%} is shown), and "
            f"{simpler}."
        )
    return Recommendation(SIMPLEST_FIRST[complexity(chosen.technique)], reason, chosen)


DECISIONS: Sequence[Callable[[ComparisonFacts], Recommendation | None]] = (
    too_few_tests,
    teacher_leads,
    facts_are_missing,
    nothing_tuned,
    champion_stays,
    no_model_is_sound,
    evidence_is_missing,
    too_few_rows,
    not_shown,
    prompting_is_enough,
    tuning_wins,
)
"""The rules that decide, in order. The last one always returns a recommendation."""


def _describe_costs(teacher: ComparisonRow) -> str:
    seconds, cost = teacher.seconds_per_call, teacher.cost_per_call
    parts = [] if seconds is None else [f"{seconds:.2g} s"]
    parts += [] if cost is None else [f"{cost:.2g} (in the currency of teacher.endpoint.prices)"]
    return f"{' and '.join(parts)} per call" if parts else "price and speed"
