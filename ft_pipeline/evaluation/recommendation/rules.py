"""What to do, and why: explicit rules over the measured comparison (docs: the table "When do you do what").

The rules of DECISIONS run in order, and the first that returns a recommendation decides. The rules of observations.py
then add what else the numbers show. "Clear" always means that the paired 95 % interval of the difference excludes zero.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.comparison.records import Comparison, ComparisonRow
from ft_pipeline.evaluation.recommendation.evidence import (
    ENOUGH_ROWS,
    ComparisonFacts,
    Recommendation,
    evidence,
    named,
)
from ft_pipeline.evaluation.recommendation.observations import OBSERVATIONS

TOO_FEW_ROWS = 100
"""Training rows below which tuning that is not clearly ahead counts as not yet tried."""
SIMPLEST_FIRST = ("prompt_tuning", "lora", "qlora", "full")
"""Techniques in the order of how much they change and what they require for training and serving."""


def build_recommendation(
    comparison: Comparison, experiments: Mapping[str, Mapping[str, Any]], margin: float, out: Path
) -> dict[str, Any]:
    """Write recommendation.json to `out` and return it. Arguments as in ComparisonFacts."""
    recommendation = recommend(comparison, experiments, margin)
    (out / "recommendation.json").write_text(json.dumps(recommendation, indent=2, ensure_ascii=False), encoding="utf-8")
    return recommendation


def recommend(comparison: Comparison, experiments: Mapping[str, Mapping[str, Any]], margin: float) -> dict[str, Any]:
    """Return the document of `ft recommend --json`.

    Keys: decision, experiment (of a tuned decision), reasons, evidence, and `row`, the comparison's row that the
    decision recommends.
    """
    facts = ComparisonFacts(comparison, experiments, margin)
    recommendation = next(filter(None, (rule(facts) for rule in DECISIONS)))
    observations = filter(None, (rule(facts, recommendation) for rule in OBSERVATIONS))
    row = recommendation.row if recommendation.decision in SIMPLEST_FIRST else facts.best_baseline
    speaks_for = recommendation.row if recommendation.decision == "distillation" else row
    if recommendation.decision == "distillation":
        row = facts.teacher
    return {
        "decision": recommendation.decision,
        "experiment": speaks_for.experiment if speaks_for else None,
        "row": row.name if row else None,
        "reasons": [recommendation.reason, *observations],
        "evidence": evidence(facts, recommendation),
    }


# --- deciding rules ---------------------------------------------------------------------------------------------------


def teacher_leads(facts: ComparisonFacts) -> Recommendation | None:
    """Distillation: a teacher that is clearly better than every use of the small model can teach it."""
    if facts.teacher is None or not facts.teacher_leads():
        return None
    lead, costs = facts.describe(facts.answers(facts.students[0])), _costs(facts.teacher)
    into = next(iter(facts.without_forgetting), None)
    reason = (
        f"The teacher's answers are clearly better than those of every baseline and tuned model: {lead} "
        f"If you can accept its {costs}, prompt the teacher itself; otherwise distill it: use more unlabeled "
        f"prompts and a higher weight of distilled rows{' in ' + str(into.experiment) if into else ''}."
    )
    return Recommendation("distillation", reason, into)


def facts_are_missing(facts: ComparisonFacts) -> Recommendation | None:
    """Retrieval: a gain from passages that tuning does not reach comes from facts, which an adapter does not learn."""
    with_passages, without = facts.with_passages, facts.without_passages
    best = next(iter(facts.without_forgetting), None)
    if (
        with_passages is None
        or without is None
        or not facts.passages_help()
        or (best and facts.clear(best, with_passages))
    ):
        return None
    reason = (
        f"The model lacks facts, so use retrieval: with passages of data/raw/text the base model clearly improves. "
        f"{facts.describe(facts.lead(with_passages, without))}"
    )
    if best is not None:
        pair = facts.comparison.difference_between(with_passages, best)
        reason += (
            f" No tuned model is clearly better; adapters change style more readily than facts. {facts.describe(pair)}"
        )
    return Recommendation("retrieval", reason, best)


def nothing_tuned(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: the default start. It needs no training, and changes take effect at once."""
    if facts.tuned:
        return None
    return Recommendation(
        "prompt", "No model has been tuned yet. Start with prompting, and train an experiment to compare."
    )


def everything_forgets(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: a gain on the task does not justify forgetting."""
    if facts.without_forgetting:
        return None
    reason = (
        f"Every tuned model loses more than {facts.margin:.0%} of general accuracy. Lower the learning rate or the "
        "number of epochs. Until then, prompt the base model."
    )
    return Recommendation("prompt", reason, facts.tuned[0])


def too_few_rows(facts: ComparisonFacts) -> Recommendation | None:
    """More data: with so few rows, tuning that is not ahead may still get ahead with more.

    Applies to fewer than 100 training rows always; to fewer than 500 if prompting does not help either and no learning
    curve is flat; to any number if the curve still rises and one more step like its last would reach the best baseline.
    """
    best, baseline = facts.without_forgetting[0], facts.best_baseline
    rows, curve = facts.train_rows(best), facts.curve(best)
    if rows is None or facts.beats_baselines(best):
        return None
    prompting_helps = baseline is not None and facts.plain is not None and facts.clear(baseline, facts.plain)
    levelled = curve is not None and curve.flat
    few = rows < TOO_FEW_ROWS or (rows < ENOUGH_ROWS and not prompting_helps and not levelled)
    if not few and not facts.within_a_step(best):
        return None
    if not few:
        reason = (
            f"More data should help: {best.name} is not clearly better than {named(baseline)} yet. More rows still "
            "improve it, and one more step like the last would close the gap. "
            f"Collect more than its {rows} rows."
        )
        return Recommendation("more_data", reason, best)
    reason = (
        f"Too little data: {best.name} was trained on {rows} rows and is not clearly better than "
        f"{named(baseline)}. Collect about {ENOUGH_ROWS} examples before you decide, and use {named(baseline)} "
        "until then."
    )
    return Recommendation("more_data", reason, best)


def prompting_is_enough(facts: ComparisonFacts) -> Recommendation | None:
    """Prompt: fine-tuning is recommended only if it is clearly better than prompting."""
    best = facts.without_forgetting[0]
    if facts.best_baseline is None or facts.beats_baselines(best):
        return None
    prompting, missing = named(facts.best_baseline), facts.lead(facts.best_baseline, best)
    if missing is not None:
        reason = f"Do not fine-tune: {prompting} is at least as good. {facts.describe(missing)}"
        return Recommendation("prompt", reason, best)
    lead = facts.describe(facts.lead(best, facts.best_baseline))
    return Recommendation(
        "prompt", f"Do not fine-tune: no tuned model is clearly better than {prompting}. {lead}", best
    )


def tuning_wins(facts: ComparisonFacts) -> Recommendation | None:
    """Fine-tune: the best row without forgetting, or a simpler technique.

    The simpler technique must not be clearly worse, and must clearly beat the best baseline too.
    """
    best = facts.without_forgetting[0]
    level = [row for row in facts.without_forgetting if facts.beats_baselines(row) and not facts.clear(best, row)]
    chosen = min([best, *level], key=lambda row: (_simplicity(row), facts.without_forgetting.index(row)))
    pair = facts.lead(chosen, facts.best_baseline) if facts.best_baseline else None
    reason = (
        f"Tuning pays off: {chosen.name} beats the best baseline. {facts.describe(pair)}"
        if pair
        else f"Only {chosen.name} was scored."
    )
    if _simplicity(chosen) < _simplicity(best):
        reason += f" {best.name} is not clearly better, and {chosen.technique} is the simpler technique."
    return Recommendation(SIMPLEST_FIRST[_simplicity(chosen)], reason, chosen)


DECISIONS: Sequence[Callable[[ComparisonFacts], Recommendation | None]] = (
    teacher_leads,
    facts_are_missing,
    nothing_tuned,
    everything_forgets,
    too_few_rows,
    prompting_is_enough,
    tuning_wins,
)


def _costs(teacher: ComparisonRow) -> str:
    seconds, cost = teacher.seconds_per_call, teacher.cost_per_call
    parts = [] if seconds is None else [f"{seconds:.2g} s"]
    parts += [] if cost is None else [f"{cost:.2g} (in the currency of teacher.endpoint.prices)"]
    return f"{' and '.join(parts)} per call" if parts else "price and speed"


def _simplicity(row: ComparisonRow) -> int:
    return SIMPLEST_FIRST.index(row.technique or "")
