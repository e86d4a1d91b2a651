"""What to do, and why: explicit rules over the measured comparison (docs: the table "When do you do what").

The rules of DECISIONS are asked in their order and the first that answers decides; the rules of REMARKS then say what
else the numbers show. "Clear" always means that the paired 95 % interval of the difference excludes zero.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.costs import in_words
from ft_pipeline.evaluation.evidence import ANSWERS, Case, Row, Verdict, accuracy, evidence

ENOUGH_ROWS = 500
"""Training rows that LoRA is said to want; below, a tie says little about tuning."""
TOO_FEW_ROWS = 100
"""Training rows below which tuning that is not clearly ahead has not been tried yet."""
ENOUGH_TESTS = 30
"""Test conversations below which intervals are wide and their 95 % is optimistic."""
SIMPLEST_FIRST = ("prompt_tuning", "lora", "qlora", "full")
"""How much a technique changes, and what it asks of training and serving."""


def build_recommendation(
    document: Mapping[str, Any], experiments: Mapping[str, Mapping[str, Any]], margin: float, out: Path
) -> dict[str, Any]:
    """Write recommendation.json to `out` and return it; arguments as in Case."""
    found = recommend(document, experiments, margin)
    (out / "recommendation.json").write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    return found


def recommend(
    document: Mapping[str, Any], experiments: Mapping[str, Mapping[str, Any]], margin: float
) -> dict[str, Any]:
    """The document of `ft recommend --json`: decision, experiment (of a tuned decision), reasons, evidence, and `row`,
    the comparison's row that the decision speaks for."""
    case = Case(document, experiments, margin)
    verdict = next(filter(None, (rule(case) for rule in DECISIONS)))
    remarks = filter(None, (rule(case, verdict) for rule in REMARKS))
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


def teacher_leads(case: Case) -> Verdict | None:
    """What a teacher does better than every use of the small model, the small model can be taught."""
    if case.teacher is None or not case.teacher_leads():
        return None
    student = case.students[0]
    into = next(iter(case.sound), None)
    reason = (
        f"The teacher clearly answers better than every use of the small model: {case.words(_answers(case, student))} "
        f"Where its {_costs(case.teacher)} can be afforded, prompt the teacher itself; else distil it: more unlabelled "
        f"prompts, and a higher weight of distilled rows{' in ' + str(into['experiment']) if into else ''}."
    )
    return Verdict("distillation", reason, into)


def nothing_tuned(case: Case) -> Verdict | None:
    """Prompting is the default start: it costs no training and changes at once."""
    if case.tuned:
        return None
    return Verdict("prompt", "Nothing has been tuned yet: start with prompting, and train an experiment to compare.")


def everything_forgets(case: Case) -> Verdict | None:
    """A gain on the task is not bought with general ability."""
    if case.sound:
        return None
    reason = (
        f"Every tuned model loses more than {case.margin:.0%} of general accuracy: lower the learning rate or the "
        "epochs; until then, prompt."
    )
    return Verdict("prompt", reason, case.tuned[0])


def too_few_rows(case: Case) -> Verdict | None:
    """With so few rows, tuning that is not ahead has not shown that it cannot be.

    Under 100 training rows always; under 500 where prompting does not help either.
    """
    best = case.sound[0]
    rows = case.train_rows(best)
    if rows is None or case.ahead(best):
        return None
    prompting_helps = case.bar is not None and case.plain is not None and case.clear(case.bar, case.plain)
    if rows >= TOO_FEW_ROWS and (rows >= ENOUGH_ROWS or prompting_helps):
        return None
    reason = (
        f"Too little data: {best['name']} was trained on {rows} rows and is not clearly better than "
        f"{_named(case.bar)}: collect examples towards {ENOUGH_ROWS} before judging; use that meanwhile."
    )
    return Verdict("more_data", reason, best)


def prompting_is_enough(case: Case) -> Verdict | None:
    """Fine-tune only when prompting provably falls short."""
    best = case.sound[0]
    if case.bar is None or case.ahead(best):
        return None
    behind = case.lead(case.bar, best)
    if behind is not None:
        return Verdict(
            "prompt", f"Do not fine-tune: {_named(case.bar)} is at least as good. {case.words(behind)}", best
        )
    ahead = case.lead(best, case.bar)
    return Verdict(
        "prompt",
        f"Do not fine-tune: no tuned model is clearly better than {_named(case.bar)}. {case.words(ahead)}",
        best,
    )


def tuning_wins(case: Case) -> Verdict | None:
    """The best sound row, or the simplest technique that is not clearly worse and clear of prompting too."""
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
    return Verdict(chosen["technique"], reason, chosen)


DECISIONS: Sequence[Callable[[Case], Verdict | None]] = (
    teacher_leads,
    nothing_tuned,
    everything_forgets,
    too_few_rows,
    prompting_is_enough,
    tuning_wins,
)


# --- remarks ----------------------------------------------------------------------------------------------------------


def say_rows(case: Case, verdict: Verdict) -> str | None:
    """Few training rows are said even where tuning wins."""
    rows = case.train_rows(verdict.row) if verdict.row else None
    if rows is None or rows >= ENOUGH_ROWS or verdict.decision == "more_data":
        return None
    return f"The training data has {rows} rows, under the {ENOUGH_ROWS} that are usually wanted: more should help."


def say_prompting(case: Case, verdict: Verdict) -> str | None:
    """What prompting alone gains over the plain model."""
    if case.plain is None or case.bar is None or case.bar is case.plain:
        return None
    pair = case.lead(case.bar, case.plain)
    if pair is None:
        return None
    helps = "helps" if pair["low"] > 0 else "does not clearly help"
    return f"Prompting {helps}: {case.words(pair)}"


def say_tokens(case: Case, verdict: Verdict) -> str | None:
    """What the prompt costs on every call."""
    if case.bar is None or verdict.row is None:
        return None
    prompted, tuned = case.bar["prompt_tokens_per_call"], verdict.row["prompt_tokens_per_call"]
    if prompted <= 1.1 * tuned:
        return None
    return (
        f"Cost: {_named(case.bar)} reads {prompted:.0f} prompt tokens per call, {verdict.row['name']} {tuned:.0f} "
        f"({1 - tuned / prompted:.0%} fewer): with many calls, tuning is cheaper to serve."
    )


def say_break_even(case: Case, verdict: Verdict) -> str | None:
    """After how many calls training has paid for itself, or that it never does."""
    found = case.document.get("break_even", ())
    own = next((each for each in found if verdict.row and each["tuned"] == verdict.row["name"]), None)
    return f"Break-even: {in_words(own)}" if own else None


def say_forgetting(case: Case, verdict: Verdict) -> str | None:
    """General accuracy before and after."""
    before, after = accuracy(case.plain), accuracy(verdict.row)
    if before is None or after is None or verdict.row is None:
        return None
    if before - after <= case.margin:
        judged = f"within the margin of {case.margin:g}"
    elif case.forgets(verdict.row):
        judged = f"a clear drop beyond the margin of {case.margin:g}"
    else:
        judged = (
            f"beyond the margin of {case.margin:g}, but its interval includes no drop at all: more questions would tell"
        )
    return f"General accuracy: {before:.3f} before, {after:.3f} after, {judged}."


def say_merge(case: Case, verdict: Verdict) -> str | None:
    """Whether the merged model is worse than its adapter: then the adapter should be served, unless it forgets."""
    if verdict.row is None:
        return None
    forms = {row["kind"]: row for row in case.sound if row["experiment"] == verdict.row["experiment"]}
    if len(forms) < 2 or not case.clear(forms["adapter"], forms["merged"]):
        return None
    pair = case.lead(forms["adapter"], forms["merged"])
    return f"Serve the adapter, not the merged model: merging costs quality. {case.words(pair)}"


def say_tuning(case: Case, verdict: Verdict) -> str | None:
    """Where the teacher is ahead, whether tuning has paid so far."""
    if verdict.decision != "distillation" or verdict.row is None or case.bar is None:
        return None
    pair = case.lead(verdict.row, case.bar)
    if pair is None or pair["low"] <= 0:
        return f"So far {verdict.row['name']} is not clearly better than {_named(case.bar)}."
    return f"So far tuning pays: {case.words(pair)}"


def say_teacher(case: Case, verdict: Verdict) -> str | None:
    """A teacher that is not ahead has little to teach."""
    if case.teacher is None or verdict.decision == "distillation" or not case.students:
        return None
    pair = _answers(case, case.students[0])
    return f"The teacher is not clearly ahead, so distilling more of it promises little. {case.words(pair)}"


def say_tests(case: Case, verdict: Verdict) -> str | None:
    """A small test split makes every statement above weak."""
    tests = case.document["test_rows"]
    if tests >= ENOUGH_TESTS:
        return None
    return f"The test split has {tests} conversations, under {ENOUGH_TESTS}: the intervals are wide; add data."


REMARKS: Sequence[Callable[[Case, Verdict], str | None]] = (
    say_tuning,
    say_teacher,
    say_prompting,
    say_tokens,
    say_break_even,
    say_forgetting,
    say_merge,
    say_rows,
    say_tests,
)


def _answers(case: Case, student: Row) -> Mapping[str, Any] | None:
    assert case.teacher is not None
    return case.lead(case.teacher, student, ANSWERS) or case.lead(student, case.teacher, ANSWERS)


def _costs(teacher: Row) -> str:
    seconds, cost = teacher["seconds_per_call"], teacher.get("cost_per_call")
    parts = [] if seconds is None else [f"{seconds:.2g} s"]
    parts += [] if cost is None else [f"{cost:.2g} (in the currency of teacher.endpoint.prices)"]
    return f"{' and '.join(parts)} per call" if parts else "price and speed"


def _simplicity(row: Row) -> int:
    return SIMPLEST_FIRST.index(row["technique"])


def _named(row: Row | None) -> str:
    return "the plain model" if row is None or row["kind"] == "base" else f"the prompt variant {row['name']}"
