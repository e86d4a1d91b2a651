"""What to do, and why: explicit rules over the measured comparison (docs: the table "When do you do what").

The rules of DECISIONS run in order, and the first that returns a recommendation decides. The rules of observations.py
then add what else the numbers show. "Clear" always means that the paired 95 % interval of the difference excludes zero.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.comparison.sweep_results import flat
from ft_pipeline.evaluation.recommendation.evidence import (
    ENOUGH_ROWS,
    ComparisonFacts,
    Recommendation,
    Row,
    evidence,
    named,
)
from ft_pipeline.evaluation.recommendation.observations import OBSERVATIONS

TOO_FEW_ROWS = 100
"""Training rows below which tuning that is not clearly ahead counts as not yet tried."""
SIMPLEST_FIRST = ("prompt_tuning", "lora", "qlora", "full")
"""Techniques in the order of how much they change and what they require for training and serving."""


def build_recommendation(
    document: Mapping[str, Any], experiments: Mapping[str, Mapping[str, Any]], margin: float, out: Path
) -> dict[str, Any]:
    """Write recommendation.json to `out` and return it. Arguments as in ComparisonFacts."""
    recommendation = recommend(document, experiments, margin)
    (out / "recommendation.json").write_text(json.dumps(recommendation, indent=2, ensure_ascii=False), encoding="utf-8")
    return recommendation


def recommend(
    document: Mapping[str, Any], experiments: Mapping[str, Mapping[str, Any]], margin: float
) -> dict[str, Any]:
    """Return the document of `ft recommend --json`.

    Keys: decision, experiment (of a tuned decision), reasons, evidence, and `row`, the comparison's row that the
    decision recommends.
    """
    case = ComparisonFacts(document, experiments, margin)
    verdict = next(filter(None, (rule(case) for rule in DECISIONS)))
    remarks = filter(None, (rule(case, verdict) for rule in OBSERVATIONS))
    row = verdict.row if verdict.decision in SIMPLEST_FIRST else case.bar
    speaks_for = verdict.row if verdict.decision == "distillation" else row
    if verdict.decision == "distillation":
        row = case.teacher
    return {
        "decision": verdict.decision,
        "experiment": speaks_for["experiment"] if speaks_for else None,
        "row": row["name"] if row else None,
        "reasons": [verdict.reason, *remarks],
        "evidence": evidence(case, verdict),
    }


# --- deciding rules ---------------------------------------------------------------------------------------------------


def teacher_leads(case: ComparisonFacts) -> Recommendation | None:
    """Distillation: a teacher that is clearly better than every use of the small model can teach it."""
    if case.teacher is None or not case.teacher_leads():
        return None
    student = case.students[0]
    into = next(iter(case.sound), None)
    reason = (
        f"The teacher clearly answers better than every use of the small model: {case.words(case.answers(student))} "
        f"Where its {_costs(case.teacher)} can be afforded, prompt the teacher itself; else distil it: more unlabelled "
        f"prompts, and a higher weight of distilled rows{' in ' + str(into['experiment']) if into else ''}."
    )
    return Recommendation("distillation", reason, into)


def facts_are_missing(case: ComparisonFacts) -> Recommendation | None:
    """Retrieval: a gain from passages that tuning does not reach comes from facts, which an adapter does not learn."""
    with_passages, without = case.with_passages, case.without_passages
    best = next(iter(case.sound), None)
    if (
        with_passages is None
        or without is None
        or not case.passages_help()
        or (best and case.clear(best, with_passages))
    ):
        return None
    reason = (
        f"The gap is facts, so look them up: with passages of data/raw/text the untouched model clearly gains. "
        f"{case.words(case.lead(with_passages, without))}"
    )
    if best is not None:
        pair = case.lead(with_passages, best) or case.lead(best, with_passages)
        reason += (
            f" No tuned model is clearly better; adapters change style more readily than facts. {case.words(pair)}"
        )
    return Recommendation("retrieval", reason, best)


def nothing_tuned(case: ComparisonFacts) -> Recommendation | None:
    """Prompt: the default start. It needs no training, and changes take effect at once."""
    if case.tuned:
        return None
    return Recommendation(
        "prompt", "Nothing has been tuned yet: start with prompting, and train an experiment to compare."
    )


def everything_forgets(case: ComparisonFacts) -> Recommendation | None:
    """Prompt: a gain on the task does not justify forgetting."""
    if case.sound:
        return None
    reason = (
        f"Every tuned model loses more than {case.margin:.0%} of general accuracy: lower the learning rate or the "
        "epochs; until then, prompt."
    )
    return Recommendation("prompt", reason, case.tuned[0])


def too_few_rows(case: ComparisonFacts) -> Recommendation | None:
    """More data: with so few rows, tuning that is not ahead may still get ahead with more.

    Applies to fewer than 100 training rows always; to fewer than 500 if prompting does not help either and no learning
    curve is flat; to any number if the curve still rises and one more step like its last would reach the best baseline.
    """
    best = case.sound[0]
    rows = case.train_rows(best)
    if rows is None or case.ahead(best):
        return None
    prompting_helps = case.bar is not None and case.plain is not None and case.clear(case.bar, case.plain)
    curve = case.curve(best)
    levelled = curve is not None and flat(curve)
    few = rows < TOO_FEW_ROWS or (rows < ENOUGH_ROWS and not prompting_helps and not levelled)
    if not few and not case.within_a_step(best):
        return None
    if not few:
        reason = (
            f"More data should do: {best['name']} is not clearly better than {named(case.bar)} yet, but it still "
            f"gains from rows, and one more step like the last would reach it: collect more than its {rows} rows."
        )
        return Recommendation("more_data", reason, best)
    reason = (
        f"Too little data: {best['name']} was trained on {rows} rows and is not clearly better than "
        f"{named(case.bar)}: collect examples towards {ENOUGH_ROWS} before judging; use that meanwhile."
    )
    return Recommendation("more_data", reason, best)


def prompting_is_enough(case: ComparisonFacts) -> Recommendation | None:
    """Prompt: fine-tuning is recommended only if it is clearly better than prompting."""
    best = case.sound[0]
    if case.bar is None or case.ahead(best):
        return None
    behind = case.lead(case.bar, best)
    if behind is not None:
        return Recommendation(
            "prompt", f"Do not fine-tune: {named(case.bar)} is at least as good. {case.words(behind)}", best
        )
    ahead = case.lead(best, case.bar)
    return Recommendation(
        "prompt",
        f"Do not fine-tune: no tuned model is clearly better than {named(case.bar)}. {case.words(ahead)}",
        best,
    )


def tuning_wins(case: ComparisonFacts) -> Recommendation | None:
    """Fine-tune: the best row without forgetting, or a simpler technique.

    The simpler technique must not be clearly worse, and must clearly beat the best baseline too.
    """
    best = case.sound[0]
    level = [row for row in case.sound if case.ahead(row) and not case.clear(best, row)]
    chosen = min([best, *level], key=lambda row: (_simplicity(row), case.sound.index(row)))
    pair = case.lead(chosen, case.bar) if case.bar else None
    reason = (
        f"Tuning pays: {chosen['name']} beats the best prompting. {case.words(pair)}"
        if pair
        else f"Only {chosen['name']} was scored."
    )
    if _simplicity(chosen) < _simplicity(best):
        reason += f" {best['name']} is not clearly better, and {chosen['technique']} is the simpler technique."
    return Recommendation(chosen["technique"], reason, chosen)


DECISIONS: Sequence[Callable[[ComparisonFacts], Recommendation | None]] = (
    teacher_leads,
    facts_are_missing,
    nothing_tuned,
    everything_forgets,
    too_few_rows,
    prompting_is_enough,
    tuning_wins,
)


def _costs(teacher: Row) -> str:
    seconds, cost = teacher["seconds_per_call"], teacher.get("cost_per_call")
    parts = [] if seconds is None else [f"{seconds:.2g} s"]
    parts += [] if cost is None else [f"{cost:.2g} (in the currency of teacher.endpoint.prices)"]
    return f"{' and '.join(parts)} per call" if parts else "price and speed"


def _simplicity(row: Row) -> int:
    return SIMPLEST_FIRST.index(row["technique"])
