"""Observations about a comparison, in addition to the decision: a sentence or two per rule that applies."""

from collections.abc import Callable, Sequence

from ft_pipeline.evaluation.comparison.costs import describe_break_even, describe_prices
from ft_pipeline.evaluation.comparison.likelihood_evidence import DECIDE_BY, learned_rows
from ft_pipeline.evaluation.comparison.records import ENOUGH_TEST_ROWS
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread, worst_seed
from ft_pipeline.evaluation.comparison.target_records import OwnTarget
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED
from ft_pipeline.evaluation.recommendation.evidence import ENOUGH_ROWS, ComparisonFacts, Recommendation, baseline_phrase
from ft_pipeline.training.objectives.registry import OBJECTIVES

ROUNDING = 0.001
"""The largest difference of a row between bf16 and fp32 that was measured, in nats per byte (loss: 0.002 per token)."""


def observe_rows(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return a warning about few training rows, even if tuning wins."""
    rows = facts.train_rows(recommendation.row) if recommendation.row else None
    if rows is None or rows >= ENOUGH_ROWS or recommendation.decision == "more_data":
        return None
    if recommendation.row and facts.learning_curve(recommendation.row):
        return None  # observe_curve says whether more rows help
    return f"The training data has {rows} rows, fewer than the {ENOUGH_ROWS} usually needed: more rows should help."


def observe_curve(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return whether more rows still help, if it was measured."""
    curve = facts.learning_curve(recommendation.row) if recommendation.row else None
    if curve is None:
        return None
    words = describe_learning_curve(curve, facts.comparison.metric())
    if curve.rises:
        return f"More rows still help: {words}"
    if not curve.is_flat:
        return f"The learning curve does not show yet whether more rows would help: {words}"
    return f"The learning curve is flat, so more rows of the same kind are unlikely to help: {words}"


def observe_one_training(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return that a lead of one training is that of its weights, and how much another training may differ, if known."""
    row = recommendation.row
    if row is None or row.technique is None or len(facts.comparison.recipe_leads_of(row)) > 0:
        return None
    spread = facts.pooled_spread(row)
    known = f" Another training of this technique may differ by ± {spread:.3f}." if spread is not None else ""
    return f"One training: this speaks for these weights, not for {row.technique}.{known} `seeds: 3` would show it."


def observe_seeds(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the spread between training seeds, and whether the worst seed still beats the best baseline."""
    spread = facts.seed_spread(recommendation.row) if recommendation.row else None
    if spread is None:
        return None
    name, metric = facts.comparison.primary_metric, facts.comparison.metric()
    baseline = facts.bar_of(recommendation.row)
    words = f"Seeds: {describe_seed_spread(spread, name, metric)}"
    if baseline is None or recommendation.row is None or not facts.beats_baselines(recommendation.row):
        return words
    worst_value, baseline_value = worst_seed(spread.scores[name], metric), baseline.scores[name].value
    better = "still better" if metric.is_better(worst_value, baseline_value) else "not better"
    words += f" The worst of them is {better} than {baseline_phrase(baseline)} ({baseline_value:.3f})."
    of_recipe = [lead for lead in facts.comparison.recipe_leads_of(recommendation.row) if lead.rival == baseline.name]
    shown = [
        f"The recipe {'leads' if lead.is_shown else 'is not shown to lead'} it: {lead.describe()}."
        for lead in of_recipe
    ]
    return " ".join([words, *shown])


def observe_prompting(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the gain of prompting alone over the base model without a prompt."""
    baseline = facts.bar_of(recommendation.row)
    plain = facts.plain_of(baseline)
    if plain is None or baseline is None or baseline is plain:
        return None
    pair = facts.lead(baseline, plain)
    if pair is None:
        return None
    helps = "helps" if pair.is_clear else "does not clearly help"
    return f"Prompting {helps}: {facts.describe(pair)}"


def observe_kept_prompts(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return how much of a prompt's gain is in the weights of models that learned it, and what each call saves."""
    return " ".join(entry.describe() for entry in facts.comparison.kept_prompts) or None


def observe_passages(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the gain from passages if they do not decide, or that none were tried although tuning did not help."""
    if recommendation.decision == "retrieval":
        return None
    with_passages, without_passages = facts.with_passages, facts.without_passages
    if with_passages is None:
        tuning_did_not_help = recommendation.decision in ("prompt", "more_data") and facts.tuned_rows
        if not tuning_did_not_help:
            return None
        return (
            "No variant with `passages` was scored. If the answers lack facts, retrieval may add them; tuning of this "
            "kind does not."
        )
    if without_passages is None or not facts.passages_help():
        return None
    gain = facts.describe(facts.lead(with_passages, without_passages))
    if any(row.passages for row in facts.tuned_rows):
        return f"Passages help the base model: {gain}"
    return (
        f"Passages help the base model: {gain} A tuned model can be served with them too: to score it so, set "
        f"`prompting.tuned_with: [{with_passages.source_row}]`."
    )


def observe_tokens(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return how many prompt tokens a call of the tuned model saves, unless the baseline reads at most a tenth more.

    What they cost is measured: observe_break_even says it.
    """
    baseline, row = facts.bar_of(recommendation.row), recommendation.row
    if baseline is None or row is None:
        return None
    baseline_tokens, tuned_tokens = baseline.prompt_tokens_per_call or 0.0, row.prompt_tokens_per_call or 0.0
    if baseline_tokens <= 1.1 * tuned_tokens:
        return None
    return (
        f"Prompts: {baseline_phrase(baseline)} reads {baseline_tokens:.0f} prompt tokens per call, {row.name} "
        f"{tuned_tokens:.0f} ({1 - tuned_tokens / baseline_tokens:.0%} fewer)."
    )


def observe_break_even(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return after how many calls training has paid for itself, or that it never does."""
    row, entries = recommendation.row, facts.comparison.break_even
    matches = (entry for entry in entries if row and entry.tuned == row.name)
    entry = next(matches, None)
    return f"Break-even: {describe_break_even(entry)}" if entry else None


def observe_forgetting(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the general accuracy of the base model and of the tuned model."""
    row, base = recommendation.row, facts.base_of(recommendation.row)
    if row is None or row.forgetting is None or base is None:
        return None
    values = f"{base.accuracy:.3f} (base model), {row.accuracy:.3f} ({row.name})"
    return f"General accuracy: {values}. {row.forgetting.describe()}"


def observe_base_checks(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return what the tuned model kept of its base model's behavior and tasks, where that was tested."""
    checks = recommendation.row.base_checks if recommendation.row else ()
    return " ".join(check.describe() for check in checks) or None


def observe_merge(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return that merging lowers the quality if the merged model is clearly worse and the adapter does not forget."""
    if recommendation.row is None:
        return None
    training = recommendation.row.experiment, recommendation.row.variant
    sound = [row for row in facts.scored_rows if row.kind in TUNED and row.is_sound]
    forms = {row.kind: row for row in sound if (row.experiment, row.variant) == training}
    adapter, merged = forms.get("adapter"), forms.get("merged")
    pair = facts.lead(adapter, merged) if adapter and merged else None
    if pair is None or not pair.is_clear:
        return None
    return f"Merging lowers the quality. {facts.describe(pair)}"


def observe_tuning(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return whether tuning is better than prompting so far, if distillation is recommended."""
    bar = facts.bar_of(recommendation.row)
    if recommendation.decision != "distillation" or recommendation.row is None or bar is None:
        return None
    if facts.why_undecided(recommendation.row) is not None:
        return None  # observe_no_evidence says so
    pair = facts.lead(recommendation.row, bar)
    if pair is None or not pair.is_clear:
        return f"So far {recommendation.row.name} is not clearly better than {baseline_phrase(bar)}."
    return f"So far tuning pays off: {facts.describe(pair)}"


def observe_teacher(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return that more distillation is unlikely to help, if a teacher was scored and is not ahead."""
    if facts.teacher is None or recommendation.decision == "distillation" or not facts.students:
        return None
    pair = facts.answer_difference(facts.students[0])
    return f"The teacher is not clearly better, so more distillation is unlikely to help. {facts.describe(pair)}"


def observe_unusable(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return which baselines score better than the best usable one, or that none is usable."""
    best = facts.bar_of(recommendation.row)
    if best is None:
        return None
    if not best.is_usable:
        return f"No baseline can be used: of {best.name}, {best.breaches[0].describe()}."
    better = [row for row in facts.scored_rows if row.kind in BASELINES and row.base_model == best.base_model]
    better = better[: better.index(best)]
    named = "; ".join(f"{row.name} ({row.breaches[0].describe()})" for row in better)
    return f"Better scores, but not usable: {named}." if better else None


def observe_other_base(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the better untouched use of another base model, with its cost, if a tuned model is recommended."""
    row = recommendation.row
    if row is None or row.base_model is None:
        return None
    others = [
        other
        for other in facts.scored_rows
        if other.kind in BASELINES and other.is_usable and other.base_model not in (None, row.base_model)
    ]
    pair = facts.lead(others[0], row) if others else None
    if pair is None:
        return None
    seconds = others[0].seconds_per_call
    cost = (
        "" if seconds is None else f" It takes {seconds:.2g} s per call, {row.name} {row.seconds_per_call or 0:.2g} s."
    )
    return f"{others[0].base_model} does better without tuning, as {others[0].name}. {facts.describe(pair)}{cost}"


def observe_tests(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return a warning about a small test split, which makes all results uncertain."""
    test_rows = facts.comparison.test_rows
    if test_rows >= ENOUGH_TEST_ROWS:
        return None
    too_few = f"{test_rows} conversations, fewer than {ENOUGH_TEST_ROWS}"
    return f"The test split has {too_few}: the intervals are wide. Add data."


def observe_types(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return a warning if rows were computed in different data types: their differences then include rounding."""
    by_type: dict[str, list[str]] = {}
    for row in facts.comparison.rows:
        if row.computed_in:
            by_type.setdefault(row.computed_in, []).append(row.name)
    if len(by_type) < 2:
        return None
    listed = "; ".join(f"{', '.join(names)} in {dtype}" for dtype, names in sorted(by_type.items()))
    return (
        f"The rows were computed in different types ({listed}). Rounding changes likelihoods by up to {ROUNDING:g} "
        "nats per byte. Score them again on one machine before you trust a smaller difference."
    )


def observe_contaminated(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the models that are not compared because they learned from rows that are test rows now."""
    contaminated = facts.comparison.contaminated
    if not contaminated:
        return None
    models = ", ".join(f"{entry.model} (rows: {entry.rows:,})" for entry in contaminated)
    return f"Not compared until trained again, after learning from rows that are test rows now: {models}."


def observe_incumbent(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return how the tuned model of the recommendation, or else the best one, compares with what answers today."""
    comparison, incumbent = facts.comparison, facts.comparison.incumbent
    row = recommendation.row or next((row for row in comparison.ranked() if row.kind in TUNED), None)
    check = next((check for check in comparison.incumbent_checks if row and check.row == row.name), None)
    if incumbent is None or row is None or check is None:
        return None
    end = f", which ends on {incumbent.ends}" if incumbent.ends else ""
    shown = "is not worse than" if check.is_shown else "is not shown to be as good as"
    numbers = f"{comparison.label(check)}: {check.describe(3)}.{describe_prices(row, incumbent)}"
    return f"{row.name} {shown} {incumbent.name}{end}: {numbers}"


def observe_not_asked(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the contenders that are not compared because they have not answered."""
    return " ".join(facts.comparison.not_asked) or None


def observe_own_targets(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return whether each training improved what it was made to improve, where that is not the same as the decision:
    those that did not, and those that did and are not better."""
    first: dict[str, OwnTarget] = {}
    for target in facts.comparison.own_targets:
        first.setdefault(target.experiment, target)
    return " ".join(filter(None, (_own_target(facts, target) for target in first.values()))) or None


def _own_target(facts: ComparisonFacts, target: OwnTarget) -> str:
    rows = [row for row in facts.tuned_rows if row.experiment == target.experiment]
    if not target.has_improved:
        return f"{target.experiment} {target.verdict}. {target.describe()}"
    beats, label = any(facts.beats_baselines(row) for row in rows), facts.comparison.metric().label
    if beats and OBJECTIVES[target.objective].learns_from == "answers":
        return ""  # that its loss fell is no news
    is_open = beats or any(facts.why_undecided(row) for row in rows)
    but = "" if is_open else f", but does not clearly beat the best use of its base model ({label})"
    return f"{target.experiment} {target.verdict}{but}. {target.describe()}"


def observe_no_evidence(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return the models of which nothing that was measured says whether tuning helped."""
    named = [row.name for row in facts.undecided_rows]
    learned = learned_rows(facts.undecided_rows)
    if not named:
        return None
    return (
        f"{'; '.join(learned)}, not to imitate. So the likelihood of the references is no evidence against "
        f"{'it' if len(named) == 1 else 'them'}: {DECIDE_BY}."
    )


def observe_data(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    """Return which objectives fit the data of the project."""
    return facts.at_hand.describe_fits(facts.comparison) or None if facts.at_hand else None


OBSERVATIONS: Sequence[Callable[[ComparisonFacts, Recommendation], str | None]] = (
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
    observe_rows,
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
