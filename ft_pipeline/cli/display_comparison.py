"""Output of `ft compare`."""

from rich.console import Console

from ft_pipeline.cli.display_tables import new_table, print_columns
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.findings.costs import describe_break_even
from ft_pipeline.decide.notes import base_models, describe_share, footnotes, shown_metrics, small_note
from ft_pipeline.decide.requirements import MARKS, Requirements
from ft_pipeline.decide.slice_table import slices_of
from ft_pipeline.decide.words import say as say_claim
from ft_pipeline.decide.words import standard_errors
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread
from ft_pipeline.evaluation.comparison.target_records import OWN_TARGETS
from ft_pipeline.evaluation.metrics.definitions import SHORT_TITLES

LOWER = "lower is better"


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the rows in the comparison's order. The primary metric is the first, with its 95 % interval."""
    primary, metrics = comparison.primary, shown_metrics(comparison)
    priced = any(row.cost_per_call is not None for row in comparison.rows)
    costs = ["prompt", "generated", "s/call", *(["cost/1,000"] if priced else [])]
    ends = any(row.ends for row in comparison.rows)
    has_bases = len(base_models(comparison)) > 1
    columns = [
        *(["base model"] if has_bases else []),
        *(SHORT_TITLES.get(name, name) for name in metrics),
        *costs,
        *(["ends"] if ends else []),
        "trainable",
    ]
    table = new_table("model", *columns, right=set(columns) - {"base model"})
    for row in comparison.rows:
        table.add_row(
            plain(row.name),
            *([plain(row.base_model or "")] if has_bases else []),
            *(_score(row.scores.get(metric), metric == primary) for metric in metrics),
            _number(row.prompt_tokens_per_call, 0),
            _number(row.generated_tokens_per_call, 0),
            _number(row.seconds_per_call, 2),
            *([_number(row.cost_per_1000, 3)] if priced else []),
            *([row.ends or ""] if ends else []),
            f"{row.trainable_params:,}" if row.trainable_params else "",
        )
    say(console, _legend(comparison, priced))
    print_columns(console, table)
    if small_note(comparison):
        say(console, f"[yellow]Small:[/] {small_note(comparison)}")
    for sentence in [*filter(None, [comparison.decided_by]), *footnotes(comparison)]:
        say(console, plain(sentence))
    show_own_targets(console, comparison)
    slices = slices_of(comparison)
    for sentence in slices.sentences() if slices else []:
        say(console, plain(sentence))
    unusable = [
        f"{row.name} (of its answers, {describe_share(breaches[0])})"
        for row in comparison.rows
        if (breaches := comparison.breaches(row))
    ]
    if unusable:
        say(console, f"Not usable: {plain('; '.join(unusable))}. The report says more.")
    for row in comparison.rows:
        for check in (check for check in comparison.about(row, "probes", "task") if not check.holds):
            say(console, plain(f"{row.name}: {say_claim(comparison, check)}."))
    for entry in comparison.contaminated:
        say(console, f"[yellow]Not compared:[/] {plain(entry.describe())}")
    for sentence in comparison.not_asked:
        say(console, f"[yellow]Not compared:[/] {plain(sentence)}")
    for spread in comparison.seeds:
        say(console, plain(describe_seed_spread(spread, primary, comparison.metric())))
    for curve in comparison.learning_curves:
        say(console, plain(describe_learning_curve(curve, comparison.metric())))
    for kept in comparison.kept_prompts:
        say(console, plain(kept.describe()))
    for break_even in comparison.break_even[:1]:  # of the best tuned row; the others are in the UI and in --json
        say(console, plain(f"Break-even: {describe_break_even(break_even)}"))


def _legend(comparison: Comparison, priced: bool) -> str:
    """Return what the columns mean."""
    shown = shown_metrics(comparison)
    lower = [SHORT_TITLES.get(name, name) for name, metric in shown.items() if metric.direction == LOWER]
    parts = [
        f"{comparison.test_items} test answers.",
        f"Lower is better for {', '.join(lower)}." if lower else "",
        "The first metric is the primary one, with its 95 % interval.",
        "Length: answer length divided by reference length; 1 is best." if "length_ratio" in shown else "",
        f"Prompt and generated: tokens per call.{' Cost: of 1,000 answers.' if priced else ''}",
    ]
    return plain(" ".join(filter(None, parts)))


def show_own_targets(console: Console, comparison: Comparison) -> None:
    """Print what each training was to improve; nothing if that was not measured."""
    if not comparison.own_targets:
        return
    say(console, OWN_TARGETS)
    for target in comparison.own_targets:
        style = "green" if target.has_improved else "yellow"
        verdict = f"[{style}]{target.verdict}[/]"
        say(console, f"  · {plain(target.experiment)} ({target.objective}) {verdict}. {plain(target.describe())}")


def show_requirements(console: Console, requirements: Requirements) -> None:
    """Print what each candidate meets of the requirements of a release; nothing if that is not decided."""
    if not requirements.matrix:
        return
    say(console, "What a release requires: ✓ holds, ? cannot be told, ✗ fails.")
    table = new_table("requirement", *map(plain, requirements.matrix))
    for name, outcomes in requirements.lines():
        table.add_row(name, *(MARKS[outcome] if outcome else "" for outcome in outcomes))
    print_columns(console, table)


def show_validation_scores(console: Console, comparison: Comparison) -> None:
    """Print the likelihood of the validation rows, best first, with the lead by which candidates are screened."""
    rows = sorted(
        (row for row in comparison.rows if row.validation),
        key=lambda row: row.validation.value if row.validation else 0,
    )
    if not rows:
        say(console, "No model was scored on the validation rows. Add validation rows, or run `ft run`.")
        return
    table = new_table("model", "nats/byte", "lead", right={"nats/byte"}, one_line={"model"})
    for row in rows:
        screen = next(iter(comparison.about(row, "screen")), None)
        errors = standard_errors(screen) if screen else None
        lead = f"{errors:+.1f} standard errors over {screen.rival}" if screen and errors is not None else ""
        table.add_row(plain(row.name), _score(row.validation, True), plain(lead))
    say(
        console,
        "Nats per byte of the validation rows: lower is better. Looking here uses up nothing; it decides nothing.",
    )
    console.print(table)


def _score(score: Score | None, with_interval: bool) -> str:
    if score is None:
        return ""
    value = f"{score.value:.3f}"
    low, high = score.ends
    return f"{value} [dim]{low:.3f}–{high:.3f}[/]" if with_interval else value


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
