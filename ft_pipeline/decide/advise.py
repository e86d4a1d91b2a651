"""What to do next, and why. The rules are asked in order for the first reason; observations.py adds what else shows.

What to use now, and the sentence that concludes, are those of the verdict. The reason explains it, or says what could
change it. Without a verdict, and while it is open, the first rule that applies decides, too. "Clearly" means that the
claim is shown: the paired 95 % interval of the lead excludes zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ft_pipeline.decide.claim import ShareFacts
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.desk import ANSWERS, Desk, phrase
from ft_pipeline.decide.likelihood_evidence import why_no_evidence
from ft_pipeline.decide.sentences import ask_for_ratings, say, tell_ahead
from ft_pipeline.evaluation.model_kinds import SIMPLEST_FIRST, complexity


@dataclass(frozen=True)
class Advice:
    """The answer of the rule that decides."""

    decision: str
    """What to do. Once there is a verdict, it only says what the reason is about."""
    reason: str
    """What the scores show. Empty if the verdict says all."""
    row: Row | None = None
    """The tuned row that it is based on."""


def too_few_tests(desk: Desk) -> Advice | None:
    """More data: on a few test conversations, chance decides."""
    count, least = desk.comparison.test_rows, desk.min_test_rows
    if desk.tuned and count >= least and desk.comparison.has_few_clusters(least):
        alike = f"{desk.comparison.conversations} are too much alike to decide"
        return Advice("more_data", f"{alike}. Add data: questions of other patterns in the test split.", desk.tuned[0])
    if count >= least or not desk.tuned:
        return None
    needed = f"{count} test conversations are too few, {least} are needed"
    how = f"Add {least - count} conversations to the test split, or raise `data.test_share`"
    return Advice("more_data", f"{needed}. {how}.", desk.tuned[0])


def teacher_leads(desk: Desk) -> Advice | None:
    """Distillation: a teacher that is clearly better than every baseline and tuned model can teach the small model."""
    if desk.teacher is None or not desk.teacher_leads():
        return None
    lead, student = desk.tell(desk.teacher, desk.shown_student, ANSWERS), next(iter(desk.sound), None)
    reason = (
        f"The teacher's answers are clearly better than those of every baseline and tuned model: {lead} "
        "What could change the decision: more distillation, with more unlabeled prompts and a higher weight of "
        f"distilled rows{' in ' + str(student.experiment) if student else ''}; or the teacher itself, at its "
        f"{_costs(desk.teacher)}."
    )
    return Advice("distillation", reason, student)


def facts_are_missing(desk: Desk) -> Advice | None:
    """Retrieval: a gain from passages that tuning does not reach comes from facts, which an adapter does not learn.
    Only if the verdict is to use them."""
    comparison, looking_up, plain = desk.comparison, desk.looking_up, desk.without_passages
    if desk.decided and (desk.is_open or desk.used != looking_up):
        return None
    best = desk.best if desk.sound else None
    if looking_up is None or plain is None or not desk.passages_help():
        return None
    is_shown = best is not None and not desk.is_screened_out(best)
    if best and is_shown and comparison.better(best, looking_up):
        return None
    reason = "The model lacks facts, so use retrieval: with passages of data/raw/text the base model clearly improves. "
    reason += tell_ahead(comparison, looking_up, plain)
    if best is not None and not desk.is_silent(best):
        better = "clearly" if is_shown else "shown to be"
        no_better = f"No tuned model is {better} better; adapters change style more readily than facts."
        reason += f" {no_better} {desk.tell(looking_up, best)}"
    return Advice("retrieval", reason, best)


def nothing_tuned(desk: Desk) -> Advice | None:
    """Train: only an experiment shows whether tuning does better than prompting."""
    if desk.tuned:
        return None
    if desk.comparison.contaminated_experiments:
        return Advice("train", "No tuned model can be compared until it is trained again.")
    start = "No model has been tuned yet: only an experiment shows whether tuning does better than prompting."
    return Advice("train", start)


def champion_stays(desk: Desk) -> Advice | None:
    """The technique of the champion: no candidate is shown to be better than a tuned model that is in use."""
    champion = desk.used
    if desk.decided is None or desk.decided.moves or champion is None or champion.technique is None:
        return None
    return Advice(champion.technique, "", champion)


def no_model_is_sound(desk: Desk) -> Advice | None:
    """Prompt, or while the verdict is open, train otherwise: a gain on the task does not justify forgetting, or answers
    that nobody can send."""
    if desk.sound:
        return None
    worst, about = desk.tuned[0], desk.comparison.about
    kinds = ("general", "probes", "task") if desk.comparison.usable(worst) else ("rail", "probes", "task")
    faults = "; ".join(say(desk.comparison, claim) for claim in about(worst, *kinds, verdict="refuted"))
    could = "What could change that: a lower learning rate, fewer epochs, or corrected training data."
    step = "train" if desk.is_open else "prompt"
    return Advice(step, f"No tuned model can be used. {worst.name}: {faults}. {could}", worst)


def evidence_is_missing(desk: Desk) -> Advice | None:
    """Rate: no tuned model is shown to be better, and of one nothing that was measured says whether it is. Nobody rates
    answers of a model that was screened out."""
    silent = [row for row in desk.silent if not desk.is_screened_out(row)]
    if not silent or any(desk.beats_bar(row) for row in desk.sound):
        return None
    row, bar = silent[0], desk.bar(silent[0])
    assert bar is not None
    ask, why = ask_for_ratings(desk.comparison, row, bar), why_no_evidence(row, bar)
    return Advice("rate", f"To decide about {row.name}, {ask}. {why}.", row)


def more_rows_help(desk: Desk) -> Advice | None:
    """More data: the learning curve of a tuned model that is not ahead still rises, and one more step like its last
    would reach the bar. Nothing else shows that more training rows would help. Of a model that was screened out, nobody
    sees the curve."""
    best = desk.best
    if desk.is_screened_out(best) or desk.beats_bar(best) or not desk.one_step_closes_gap(best):
        return None
    yet = f"More data should help: {best.name} is not clearly better than {phrase(desk.bar(best))} yet. More rows still"
    step = "improve it, and one more step like the last would close the gap"
    rows = desk.train_rows(best)
    return Advice("more_data", f"{yet} {step}{f' (trained on {rows} rows)' if rows else ''}.", best)


def not_shown(desk: Desk) -> Advice | None:
    """More data: a tuned model leads, but does not meet every requirement of a release, or may lead."""
    best, used = desk.best, desk.used
    if desk.decided is None:
        return None
    if not desk.is_open and (not desk.beats_bar(best) or (used is not None and used.rights.is_tuned)):
        return None
    bar = desk.bar(best)
    return Advice("more_data", desk.tell_standing(best, bar) if bar else "", best)


def prompting_is_enough(desk: Desk) -> Advice | None:
    """Prompt: fine-tuning is recommended only if it is clearly better than prompting."""
    comparison, best = desk.comparison, desk.best
    bar = desk.bar(best)
    if bar is None or desk.beats_bar(best):
        return None
    claim, prompting, ahead = desk.decides(best, bar), phrase(bar), desk.tell_standing(best, bar)
    failed = desk.answers_behind(best, bar) if comparison.better(best, bar) else []
    if desk.is_screened_out(best):
        reason = f"No tuned model is shown to be better than {prompting}. {ahead}"
    elif claim.kind == "opinion":
        reason = f"The answers of {best.name} are not shown to be better than those of {prompting}. "
        reason += ahead
    elif comparison.leads(bar, best):
        reason = f"{prompting[0].upper()}{prompting[1:]} is at least as good. {desk.tell(bar, best)}"
    elif failed:
        label, check = comparison.metric(failed[0].measure).label, say(comparison, failed[0].failing("numbers"))
        reason = f"{best.name} expects the reference answers better than {prompting}, but its own answers are not "
        reason += f"shown to be as good. {ahead} {label}: {check}."
    else:
        reason = f"No tuned model is clearly better than {prompting}. {ahead}"
    return Advice("prompt", reason, best)


def tuning_wins(desk: Desk) -> Advice | None:
    """Fine-tune: the best sound row, or a simpler technique that beats its bar too, and keeps most of the lead."""
    comparison, best = desk.comparison, desk.best
    keeps = [row for row in desk.sound if any(claim.holds for claim in comparison.about(row, "share"))]
    as_good = [best, *(row for row in keeps if desk.beats_bar(row))]
    chosen = desk.used or min(as_good, key=lambda row: (*row.complexity, desk.sound.index(row)))
    bar = desk.bar(chosen)
    lead = desk.tell_standing(chosen, bar) if bar else ""
    reason = f"Tuning pays off: {chosen.name} beats the best use of its base model. {lead}"
    reason = reason if lead else f"Only {chosen.name} was scored."
    kept = next(iter(desk.shown.about(chosen, "share")), None)
    if kept and chosen.complexity < best.complexity:
        same = chosen.technique == best.technique
        simpler = "its prompt is the simpler one" if same else f"{chosen.technique} is the simpler technique"
        share = f"{kept.value:.0%} of the lead of {kept.rival} (at least {kept.told(ShareFacts).wanted:.0%} is shown)"
        reason += f" It keeps {share}, and {simpler}."
    return Advice(SIMPLEST_FIRST[complexity(chosen.technique)], reason, chosen)


RULES: Sequence[Callable[[Desk], Advice | None]] = (
    too_few_tests,
    teacher_leads,
    facts_are_missing,
    nothing_tuned,
    champion_stays,
    no_model_is_sound,
    evidence_is_missing,
    more_rows_help,
    not_shown,
    prompting_is_enough,
    tuning_wins,
)
"""The last one always answers."""


def advise(desk: Desk) -> tuple[Advice, str, Row | None]:
    """Return the advice, what to do, and the row to use."""
    advice = next(filter(None, (rule(desk) for rule in RULES)))
    return advice, *(_by_verdict(desk, advice) if desk.decided else _by_rule(desk, advice))


def _by_rule(desk: Desk, advice: Advice) -> tuple[str, Row | None]:
    """Return what to do and the row to use if there is no verdict."""
    if advice.decision == "distillation":
        return "distillation", desk.teacher
    return advice.decision, advice.row if advice.decision in SIMPLEST_FIRST else desk.bar(advice.row)


def _by_verdict(desk: Desk, advice: Advice) -> tuple[str, Row | None]:
    """Return what to do and the row to use by the verdict. While it is open, that is the next step, and without a
    champion, the best baseline."""
    assert desk.decided is not None
    row, bar = desk.used, desk.bar(advice.row)
    if desk.decided.kind == "none":
        return "none", None
    if desk.is_open:
        missing = desk.decided.kind if desk.decided.kind in ("rate", "measure", "train") else "more_data"
        step = advice.decision if advice.decision in ("distillation", "rate", "train") else missing
        return step, row or (bar if bar and desk.comparison.usable(bar) and desk.comparison.informs(bar) else None)
    if row is None:
        return "keep", None  # the champion was not compared
    if row.rights.without_model:
        return row.kind, row
    return row.technique or ("retrieval" if row.passages else "prompt"), row


def _costs(teacher: Row) -> str:
    seconds, cost = teacher.seconds_per_call, teacher.cost_per_call
    parts = [] if seconds is None else [f"{seconds:.2g} s"]
    parts += [] if cost is None else [f"{cost:.2g} (in the currency of teacher.endpoint.prices)"]
    return f"{' and '.join(parts)} per call" if parts else "price and speed"
