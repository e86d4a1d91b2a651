"""Observations about a comparison, in addition to the decision: a sentence or two per rule that applies."""

from collections.abc import Callable, Sequence

from ft_pipeline.decide.advise import Advice
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.desk import ANSWERS, Desk, phrase
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.likelihood_evidence import DECIDE_BY, learned_rows
from ft_pipeline.decide.notes import ENOUGH_TEST_ROWS
from ft_pipeline.decide.sentences import describe_recipe, say, tell_ahead
from ft_pipeline.decide.units import beside_incumbent
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread, worst_seed
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.training.objectives.registry import OBJECTIVES

ROUNDING = 0.001
"""The largest difference of a row between bf16 and fp32 that was measured, in nats per byte (loss: 0.002 per token)."""


def observe_curve(desk: Desk, advice: Advice) -> str | None:
    """Return whether more rows still help, if it was measured."""
    curve = desk.curve(advice.row) if advice.row and not desk.is_screened_out(advice.row) else None
    if curve is None:
        return None
    words = describe_learning_curve(curve, desk.comparison.metric())
    if curve.rises:
        return f"More rows still help: {words}"
    if not curve.is_flat:
        return f"The learning curve does not show yet whether more rows would help: {words}"
    return f"The learning curve is flat, so more rows of the same kind are unlikely to help: {words}"


def observe_one_training(desk: Desk, advice: Advice) -> str | None:
    """Return that a lead of one training is that of its weights, and how much another training may differ, if known."""
    row = advice.row
    if row is None or row.technique is None or desk.comparison.about(row, "recipe"):
        return None
    spread = desk.pooled_spread(row)
    known = f" Another training of this technique may differ by ± {spread:.3f}." if spread is not None else ""
    return f"One training: this speaks for these weights, not for {row.technique}.{known} `seeds: 3` would show it."


def observe_seeds(desk: Desk, advice: Advice) -> str | None:
    """Return the spread between training seeds, and whether the worst seed still beats the best baseline."""
    spread = desk.seeds(advice.row) if advice.row else None
    if spread is None:
        return None
    name, metric = desk.comparison.primary, desk.comparison.metric()
    baseline = desk.bar(advice.row)
    words = f"Seeds: {describe_seed_spread(spread, name, metric)}"
    if baseline is None or advice.row is None or not desk.beats_bar(advice.row):
        return words
    worst_value, baseline_value = worst_seed(spread.scores[name], metric), baseline.scores[name].value
    better = "still better" if metric.is_better(worst_value, baseline_value) else "not better"
    words += f" The worst of them is {better} than {phrase(baseline)} ({baseline_value:.3f})."
    shown = [
        f"The recipe {'leads' if lead.holds else 'is not shown to lead'} it: {describe_recipe(lead)}."
        for lead in desk.comparison.about(advice.row, "recipe", rival=baseline.name)
    ]
    return " ".join([words, *shown])


def observe_prompting(desk: Desk, advice: Advice) -> str | None:
    """Return the gain of prompting alone over the base model without a prompt."""
    baseline = desk.comparison.best_prompt(advice.row)
    plain = desk.comparison.plain(baseline)
    if plain is None or baseline is None or baseline is plain:
        return None
    told = tell_ahead(desk.comparison, baseline, plain)
    helps = "helps" if desk.comparison.better(baseline, plain) else "does not clearly help"
    return f"Prompting {helps}: {told}" if told else None


def observe_kept_prompts(desk: Desk, advice: Advice) -> str | None:
    """Return how much of a prompt's gain is in the weights of models that learned it, and what each call saves."""
    return " ".join(entry.describe() for entry in desk.shown.kept_prompts) or None


def observe_passages(desk: Desk, advice: Advice) -> str | None:
    """Return the gain from passages if they do not decide, or that none were tried although tuning did not help."""
    if advice.decision == "retrieval":
        return None
    with_passages, without_passages = desk.looking_up, desk.without_passages
    if with_passages is None:
        tuning_did_not_help = advice.decision in ("prompt", "more_data") and desk.tuned
        if not tuning_did_not_help:
            return None
        return (
            "No variant with `passages` was scored. If the answers lack facts, retrieval may add them; tuning of this "
            "kind does not."
        )
    if without_passages is None or not desk.passages_help():
        return None
    gain = tell_ahead(desk.comparison, with_passages, without_passages)
    if any(row.passages for row in desk.tuned):
        return f"Passages help the base model: {gain}"
    return (
        f"Passages help the base model: {gain} A tuned model can be served with them too: to score it so, set "
        f"`prompting.tuned_with: [{with_passages.source_row}]`."
    )


def observe_tokens(desk: Desk, advice: Advice) -> str | None:
    """Return how many prompt tokens a call of the tuned model saves, unless the baseline reads at most a tenth more.

    What they cost is measured: observe_break_even says it.
    """
    baseline, row = desk.comparison.best_prompt(advice.row), advice.row
    if baseline is None or row is None:
        return None
    baseline_tokens, tuned_tokens = baseline.prompt_tokens_per_call or 0.0, row.prompt_tokens_per_call or 0.0
    if baseline_tokens <= 1.1 * tuned_tokens:
        return None
    return (
        f"Prompts: {phrase(baseline)} reads {baseline_tokens:.0f} prompt tokens per call, {row.name} "
        f"{tuned_tokens:.0f} ({1 - tuned_tokens / baseline_tokens:.0%} fewer)."
    )


def observe_break_even(desk: Desk, advice: Advice) -> str | None:
    """Return after how many calls training has paid for itself, or that it never does."""
    row, entries = advice.row, desk.shown.break_even
    matches = (entry for entry in entries if row and entry.tuned == row.name)
    entry = next(matches, None)
    return f"Break-even: {describe_break_even(entry)}" if entry else None


def observe_forgetting(desk: Desk, advice: Advice) -> str | None:
    """Return the general accuracy of the base model and of the tuned model."""
    row, base = advice.row, desk.base_of(advice.row)
    kept = desk.comparison.about(row, "general") if row else []
    if row is None or base is None or not kept:
        return None
    values = f"{base.accuracy:.3f} (base model), {row.accuracy:.3f} ({row.name})"
    return f"General accuracy: {values}. {say(desk.comparison, kept[0])}."


def observe_base_checks(desk: Desk, advice: Advice) -> str | None:
    """Return what the tuned model kept of its base model's behavior and tasks, where that was tested."""
    checks = desk.comparison.about(advice.row, "probes", "task") if advice.row else []
    return " ".join(f"{say(desk.comparison, check)}." for check in checks) or None


def observe_merge(desk: Desk, advice: Advice) -> str | None:
    """Return that merging lowers the quality if the merged model is clearly worse and the adapter does not forget.
    Nothing if one of them was screened out: people see no test result of it."""
    if advice.row is None:
        return None
    training = advice.row.experiment, advice.row.variant
    sound = [row for row in desk.comparison.ranked() if row.rights.is_tuned and desk.comparison.sound(row)]
    forms = {row.kind: row for row in sound if (row.experiment, row.variant) == training}
    adapter, merged = forms.get("adapter"), forms.get("merged")
    if adapter is None or merged is None or not desk.comparison.better(adapter, merged):
        return None
    if any(map(desk.is_screened_out, (adapter, merged))):
        return None
    return f"Merging lowers the quality. {desk.tell(adapter, merged)}"


def observe_tuning(desk: Desk, advice: Advice) -> str | None:
    """Return whether tuning is better than prompting so far, if distillation is recommended."""
    bar = desk.bar(advice.row)
    if advice.decision != "distillation" or advice.row is None or bar is None:
        return None
    if desk.is_screened_out(advice.row):
        return desk.tell(advice.row, bar)
    if desk.is_silent(advice.row):
        return None  # observe_no_evidence says so
    if not desk.comparison.better(advice.row, bar):
        return f"So far {advice.row.name} is not clearly better than {phrase(bar)}."
    return f"So far tuning pays off: {desk.tell(advice.row, bar)}"


def observe_teacher(desk: Desk, advice: Advice) -> str | None:
    """Return that more distillation is unlikely to help, if a teacher was scored and is not ahead."""
    if desk.teacher is None or advice.decision == "distillation" or not desk.students:
        return None
    lead = desk.tell(desk.teacher, desk.shown_student, ANSWERS)
    return f"The teacher is not clearly better, so more distillation is unlikely to help. {lead}"


def observe_unusable(desk: Desk, advice: Advice) -> str | None:
    """Return which baselines score better than the best usable one, or that none is usable."""
    comparison, best = desk.comparison, desk.bar(advice.row)
    if best is None:
        return None
    if not comparison.usable(best):
        return f"No baseline can be used: of {best.name}, {_fault(desk, best)}."
    better = [row for row in comparison.bars() if row.base_model == best.base_model]
    better = better[: better.index(best)]
    named = "; ".join(f"{row.name} ({_fault(desk, row)})" for row in better)
    return f"Better scores, but not usable: {named}." if better else None


def _fault(desk: Desk, row: Row) -> str:
    return say(desk.comparison, desk.comparison.breaches(row)[0])


def observe_other_base(desk: Desk, advice: Advice) -> str | None:
    """Return the better untouched use of another base model, with its cost, if a tuned model is recommended."""
    row = advice.row
    if row is None or row.base_model is None:
        return None
    others = [
        other
        for other in desk.comparison.bars()
        if desk.comparison.usable(other) and other.base_model not in (None, row.base_model)
    ]
    lead = tell_ahead(desk.shown, others[0], row) if others else ""
    if not lead:
        return None
    seconds = others[0].seconds_per_call
    cost = (
        "" if seconds is None else f" It takes {seconds:.2g} s per call, {row.name} {row.seconds_per_call or 0:.2g} s."
    )
    return f"{others[0].base_model} does better without tuning, as {others[0].name}. {lead}{cost}"


def observe_tests(desk: Desk, advice: Advice) -> str | None:
    """Return a warning about a small test split, which makes all results uncertain."""
    if desk.comparison.units >= ENOUGH_TEST_ROWS:
        return None
    too_few = f"{desk.comparison.conversations}, fewer than {ENOUGH_TEST_ROWS}"
    return f"The test split has {too_few}: the intervals are wide. Add data."


def observe_types(desk: Desk, advice: Advice) -> str | None:
    """Return a warning if rows were computed in different data types: their differences then include rounding."""
    by_type: dict[str, list[str]] = {}
    for row in desk.comparison.rows:
        if row.computed_in:
            by_type.setdefault(row.computed_in, []).append(row.name)
    if len(by_type) < 2:
        return None
    listed = "; ".join(f"{', '.join(names)} in {dtype}" for dtype, names in sorted(by_type.items()))
    return (
        f"The rows were computed in different types ({listed}). Rounding changes likelihoods by up to {ROUNDING:g} "
        "nats per byte. Score them again on one machine before you trust a smaller difference."
    )


def observe_contaminated(desk: Desk, advice: Advice) -> str | None:
    """Return the models that are not compared because they learned from rows that are test rows now."""
    contaminated = desk.comparison.contaminated
    if not contaminated:
        return None
    models = ", ".join(f"{entry.model} (rows: {entry.rows:,})" for entry in contaminated)
    return f"Not compared until trained again, after learning from rows that are test rows now: {models}."


def observe_incumbent(desk: Desk, advice: Advice) -> str | None:
    """Return how the tuned model of the recommendation, or else the best one, compares with what answers today."""
    incumbent, row = desk.comparison.incumbent, advice.row or next(iter(desk.comparison.tuned()), None)
    if incumbent is None or row is None:
        return None
    return beside_incumbent(desk.shown, row, incumbent) or None


def observe_not_asked(desk: Desk, advice: Advice) -> str | None:
    """Return the contenders that are not compared because they have not answered."""
    return " ".join(desk.comparison.not_asked) or None


def observe_own_targets(desk: Desk, advice: Advice) -> str | None:
    """Return whether each training improved what it was made to improve, where that is not the same as the decision:
    those that did not, and those that did and are not better."""
    first: dict[str, OwnTarget] = {}
    for target in desk.comparison.own_targets:
        first.setdefault(target.experiment, target)
    return " ".join(filter(None, (_own_target(desk, target) for target in first.values()))) or None


def _own_target(desk: Desk, target: OwnTarget) -> str:
    forms = [row for row in desk.tuned if row.experiment == target.experiment]
    rows = [row for row in forms if not desk.is_screened_out(row)]
    if not target.has_improved:
        return f"{target.experiment} {target.verdict}. {target.describe()}"
    if forms and not rows:
        return f"{target.experiment} {target.verdict}, but does not lead on the validation rows. {target.describe()}"
    beats, label = any(desk.beats_bar(row) for row in rows), desk.comparison.metric().label
    if beats and _learns_from(target) == "answers":
        return ""  # that its loss fell is no news
    is_open = beats or any(desk.is_silent(row) for row in rows)
    but = "" if is_open else f", but does not clearly beat the best use of its base model ({label})"
    return f"{target.experiment} {target.verdict}{but}. {target.describe()}"


def _learns_from(target: OwnTarget) -> str:
    return next(spec.learns_from for name, spec in OBJECTIVES.items() if name == target.objective)


def observe_no_evidence(desk: Desk, advice: Advice) -> str | None:
    """Return the models of which nothing that was measured says whether tuning helped."""
    named = [row.name for row in desk.silent]
    learned = learned_rows(desk.silent)
    if not named:
        return None
    return (
        f"{'; '.join(learned)}, not to imitate. So the likelihood of the references is no evidence against "
        f"{'it' if len(named) == 1 else 'them'}: {DECIDE_BY}."
    )


def observe_data(desk: Desk, advice: Advice) -> str | None:
    """Return which objectives fit the data of the project."""
    return desk.fits or None


OBSERVATIONS: Sequence[Callable[[Desk, Advice], str | None]] = (
    observe_tuning,
    observe_teacher,
    observe_prompting,
    observe_kept_prompts,
    observe_unusable,
    observe_other_base,
    observe_passages,
    observe_tokens,
    observe_break_even,
    observe_forgetting,
    observe_base_checks,
    observe_merge,
    observe_one_training,
    observe_seeds,
    observe_curve,
    observe_own_targets,
    observe_no_evidence,
    observe_data,
    observe_contaminated,
    observe_incumbent,
    observe_not_asked,
    observe_tests,
    observe_types,
)
"""The rules, in the order of their sentences."""
