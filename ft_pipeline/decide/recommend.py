"""The recommendation: the advice, what else the scores show, and the numbers behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.decide.advise import Advice, advise
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.desk import ANSWERS, Desk
from ft_pipeline.decide.evidence import check_of, forgetting_of, lead_of
from ft_pipeline.decide.observations import OBSERVATIONS


def build_recommendation(desk: Desk, verdict: str, out: Path, further: Sequence[str] = ()) -> dict[str, Any]:
    """Write recommendation.json to `out` and return it.

    verdict: the sentence of the decision that it follows. further: reasons of features, which come last.
    """
    recommendation = {"verdict": verdict, **recommend(desk)}
    recommendation["reasons"] += further
    (out / "recommendation.json").write_text(json.dumps(recommendation, indent=2, ensure_ascii=False), encoding="utf-8")
    return recommendation


def recommend(desk: Desk) -> dict[str, Any]:
    """Return the document of `ft recommend --json`, without its verdict.

    Keys: decision, experiment (to use, or to distill into; None for a baseline), row (of the comparison, to use; None
    if there is none), reasons, evidence.
    """
    advice, decision, row = advise(desk)
    observations = filter(None, (rule(desk, advice) for rule in OBSERVATIONS))
    of_experiment = advice.row if decision == "distillation" else row
    return {
        "decision": decision,
        "experiment": of_experiment.experiment if of_experiment else None,
        "row": row.name if row else None,
        "reasons": [*filter(None, [advice.reason]), *observations],
        "evidence": _evidence(desk, advice),
    }


def _evidence(desk: Desk, advice: Advice) -> dict[str, Any]:
    """Return the numbers that support a recommendation."""
    comparison, row = desk.comparison, advice.row
    bar, base = desk.bar(row), desk.base_of(row)
    is_shown = row is not None and not desk.is_screened_out(row)
    spread, curve = (desk.seeds(row), desk.curve(row)) if row and is_shown else (None, None)
    checks = [check_of(comparison, claim) for claim in comparison.about(row, "probes", "task")] if row else []
    return {
        "metric": comparison.primary,
        "best_untouched": bar.name if bar else None,
        "tuned": row.name if row else None,
        "difference": _pair(desk, row, bar) if row and bar else None,
        "train_rows": desk.train_rows(row) if row else None,
        "seeds": spread.scores[comparison.primary].model_dump() if spread else None,
        "learning_curve": curve.last_step.model_dump() if curve else None,
        "test_rows": comparison.test_rows,
        "prompt_tokens_per_call": {used.name: used.prompt_tokens_per_call for used in (bar, row) if used},
        "passages": _passages(desk),
        "teacher": _teacher(desk),
        "general_accuracy": {used.name: used.accuracy for used in (base, row) if used},
        "forgetting": forgetting_of(comparison, row) if row else None,
        **({"base_checks": checks} if checks else {}),
    }


def _pair(desk: Desk, row: Row, rival: Row, metric: str | None = None) -> dict[str, Any] | None:
    """Return the lead between two rows, seen from the one that is ahead; None if they were not compared, or if one was
    screened out."""
    return lead_of(desk.shown, row, rival, metric) or lead_of(desk.shown, rival, row, metric)


def _passages(desk: Desk) -> dict[str, Any] | None:
    """Return the lead between the best baselines with and without passages; None if either was not scored."""
    looking_up, plain = desk.looking_up, desk.without_passages
    if looking_up is None or plain is None:
        return None
    return {"row": looking_up.name, "difference": _pair(desk, looking_up, plain)}


def _teacher(desk: Desk) -> dict[str, Any] | None:
    """Return the lead between the teacher's answers and the best student's; None without a teacher."""
    teacher = desk.teacher
    if teacher is None or not desk.students:
        return None
    return {
        "row": teacher.name,
        "difference": _pair(desk, teacher, desk.shown_student, ANSWERS),
        "seconds_per_call": teacher.seconds_per_call,
        "cost_per_call": teacher.cost_per_call,
    }
