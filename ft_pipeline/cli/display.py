"""Output of `ft` in a terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ft_pipeline.evaluation.comparison.costs import describe_break_even
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.row_records import Score
from ft_pipeline.evaluation.comparison.slice_records import slices_of
from ft_pipeline.evaluation.comparison.sweep_results import describe_learning_curve, describe_seed_spread
from ft_pipeline.evaluation.comparison.target_records import OWN_TARGETS
from ft_pipeline.release.requests import MoveRequest
from ft_pipeline.training.memory.estimate import describe_cpu_memory
from ft_pipeline.training.memory.rank_share import describe_ranks

STATUS_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}
BATCH_STYLES = {"succeeded": "green", "failed": "red", "skipped": "yellow"}
STATE_STYLES = {"fresh": "green", "stale": "yellow", "never_run": "cyan", "failed": "red", "broken": "red"}
METRIC_TITLES = {
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact",
    "format_valid": "format",
    "length_ratio": "length",
    "general_accuracy": "general acc.",
    "nats_per_byte": "nats/byte",
    "stop_nats": "end",
    "fields_match": "fields",
    "call_names": "called tools",
    "call_arguments": "calls",
    "call_order": "call order",
    "general_nats_per_byte": "general nats/byte",
    "general_loss": "general loss",
}
"""Metric → title of its column, for metrics whose names are too long."""
ONE_LINE_COLUMNS = {"model", "asset", "experiment", "result", "state", "status", "check", "memory for", "name", "ends"}
"""Titles of columns whose cells stay on one line."""
SHORT_REASON = 100
"""Maximum letters of a reason in the table of a run."""
FIRST_ROWS = 10
"""Number of rows that are shown for each reason code."""


def plain(text: str) -> str:
    """Return user data made safe for a terminal: control characters are visible (also escape sequences), markup is
    literal."""
    return escape("".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text))


def show_findings(console: Console, findings: Sequence[Any]) -> None:
    """Print the findings of `ft doctor`."""
    table = _table("check", "status", "found", "fix")
    for finding in findings:
        style = STATUS_STYLES[finding.status]
        table.add_row(finding.what, f"[{style}]{finding.status}[/]", plain(finding.seen), plain(finding.fix))
    console.print(table)


def show_plan(console: Console, planned: Sequence[Any]) -> None:
    """Print the steps that would run, with the reason."""
    if not any(step.runs for step in planned):
        console.print("[green]Up to date:[/] nothing to run.")
        return
    table = _table("asset", "experiment", "state", "why")
    for step in planned:
        state = f"[{STATE_STYLES[step.state]}]{step.state.replace('_', ' ')}[/]"
        table.add_row(step.asset, step.experiment or "", state, plain(step.reason))
    console.print(table)


def upgrade_table(steps: Sequence[Any]) -> Table:
    """Return the steps that an upgrade runs again, with the reason and the seconds that each took before."""
    table = _table("asset", "experiment", "why", "seconds", justify_right={"seconds"})
    for step in steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
        table.add_row(step.asset, step.experiment or "", plain(step.reason), seconds)
    return table


def show_outcome(console: Console, outcome: Any, project: Any) -> None:
    """Print the summary of a run: its experiments, the comparison, the recommendation, and how to open the UI."""
    if outcome.batches:
        show_batches(console, outcome.batches, outcome.seconds)
    for message in outcome.failures:
        console.print(f"[red]{plain(message)}[/]", soft_wrap=True)
    if not outcome.steps and outcome.succeeded:
        console.print(f"[green]Up to date:[/] {outcome.fresh} assets, nothing to run.")
    if outcome.comparison:
        show_comparison(console, outcome.comparison)
    if outcome.recommendation:
        show_recommendation(console, outcome.recommendation)
    if outcome.succeeded:
        show_champion(console, outcome.champion)
    console.print("To see it in the Dagster UI, run [bold]make ui[/] or [bold]ft ui[/] and open http://127.0.0.1:3000")


def show_batches(console: Console, results: Sequence[Any], seconds: float) -> None:
    """Print one row per experiment, and for the steps that experiments share. Long reasons are cut."""
    table = _table("experiment", "ran", "state", "seconds", "why", justify_right={"seconds"})
    for result in results:
        row = result.to_json()
        skipped = f"skipped: {', '.join(row['skipped'])}" if row["skipped"] else ""
        state = f"[{BATCH_STYLES[row['state']]}]{row['state']}[/]"
        why = plain("\n".join(filter(None, [textwrap.shorten(row["reason"], SHORT_REASON, placeholder=" …"), skipped])))
        table.add_row(row["experiment"] or "(all)", ", ".join(row["ran"]), state, f"{row['seconds']:.1f}", why)
    table.add_section()
    table.add_row("total", "", "", f"{seconds:.1f}", "")
    console.print(table)


def show_experiments(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per experiment."""
    table = _table("name", "objective", "technique", "base model", "state", "primary score")
    for row in rows:
        style = STATE_STYLES.get(row["state"], "white")
        score = "" if row["primary_score"] is None else f"{row['primary_score']:.3f}"
        state = f"[{style}]{row['state'].replace('_', ' ')}[/]"
        table.add_row(
            row["name"], row["objective"] or "", row["technique"] or "", row["base_model"] or "", state, score
        )
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"[red]{plain(row['error'])}[/]", soft_wrap=True)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the rows in the comparison's order. Scores of the primary metric have their 95 % interval."""
    metrics, primary = list(comparison.shown_metrics()), comparison.primary_metric
    priced = any(row.cost_per_call is not None for row in comparison.rows)
    costs = ["prompt", "generated", "s/call", *(["cost/1,000"] if priced else [])]
    ends = any(row.ends for row in comparison.rows)
    has_bases = len(comparison.base_models) > 1
    columns = [
        *(["base model"] if has_bases else []),
        *(METRIC_TITLES.get(name, name) for name in metrics),
        *costs,
        *(["ends"] if ends else []),
        "trainable",
    ]
    table = _table("model", *columns, justify_right=set(columns) - {"base model"})
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
    console.print(
        f"{comparison.test_items} test answers. Lower is better for nats per byte, loss and end (of the turn). "
        "The primary metric has its 95 % interval. Length: answer length divided by reference length. "
        f"Prompt and generated: tokens per call.{' Cost: of 1,000 answers.' if priced else ''}",
        soft_wrap=True,
    )
    console.print(table)
    if comparison.small_note:
        console.print(f"[yellow]Small:[/] {comparison.small_note}", soft_wrap=True)
    for sentence in [*filter(None, [comparison.decided_by]), *comparison.footnotes]:
        console.print(plain(sentence), soft_wrap=True)
    show_own_targets(console, comparison)
    slices = slices_of(comparison)
    for sentence in slices.sentences() if slices else []:
        console.print(plain(sentence), soft_wrap=True)
    unusable = [
        f"{row.name} (of its answers, {row.breaches[0].describe_share()})" for row in comparison.rows if row.breaches
    ]
    if unusable:
        console.print(f"Not usable: {plain('; '.join(unusable))}. The report says more.", soft_wrap=True)
    for row in comparison.rows:
        for check in (check for check in row.base_checks if check.prevents_release):
            console.print(plain(f"{row.name}: {check.describe()}"), soft_wrap=True)
    for entry in comparison.contaminated:
        console.print(f"[yellow]Not compared:[/] {plain(entry.describe())}", soft_wrap=True)
    for sentence in comparison.not_asked:
        console.print(f"[yellow]Not compared:[/] {plain(sentence)}", soft_wrap=True)
    for spread in comparison.seeds:
        console.print(plain(describe_seed_spread(spread, primary, comparison.metric())), soft_wrap=True)
    for curve in comparison.learning_curves:
        console.print(plain(describe_learning_curve(curve, comparison.metric())), soft_wrap=True)
    for kept in comparison.kept_prompts:
        console.print(plain(kept.describe()), soft_wrap=True)
    for break_even in comparison.break_even[:1]:  # of the best tuned row; the others are in the UI and in --json
        console.print(plain(f"Break-even: {describe_break_even(break_even)}"), soft_wrap=True)


def show_own_targets(console: Console, comparison: Comparison) -> None:
    """Print what each training was to improve; nothing if that was not measured."""
    if not comparison.own_targets:
        return
    table = _table("experiment", "objective", "own target", "before → after", "change", "")
    for target in comparison.own_targets:
        style = "green" if target.has_improved else "yellow"
        cells = map(plain, (target.experiment, target.objective, target.label, target.values, target.change))
        table.add_row(*cells, f"[{style}]{target.verdict}[/]")
    console.print(OWN_TARGETS, soft_wrap=True)
    console.print(table)


def show_validation_scores(console: Console, comparison: Comparison) -> None:
    """Print the likelihood of the validation rows, best first, with the lead by which candidates are screened."""
    rows = sorted(
        (row for row in comparison.rows if row.validation),
        key=lambda row: row.validation.value if row.validation else 0,
    )
    if not rows:
        console.print("No model was scored on the validation rows. Add validation rows, or run `ft run`.")
        return
    table = _table("model", "nats/byte", "lead", justify_right={"nats/byte"})
    for row in rows:
        screen = comparison.screen(row)
        lead = (
            f"{screen.errors:+.1f} standard errors over {screen.rival}" if screen and screen.errors is not None else ""
        )
        table.add_row(plain(row.name), _score(row.validation, True), plain(lead))
    console.print(
        "Nats per byte of the validation rows: lower is better. Looking here uses up nothing; it decides nothing."
    )
    console.print(table)


def show_recommendation(console: Console, document: Mapping[str, Any]) -> None:
    """Print the decision and its reasons."""
    if document.get("verdict"):
        console.print(f"[bold]{plain(document['verdict'])}[/]", soft_wrap=True)
    experiment = f" ({plain(document['experiment'])})" if document.get("experiment") else ""
    console.print(f"Recommendation: [bold]{document['decision']}[/]{experiment}")
    for reason in document["reasons"]:
        console.print(f"  · {plain(reason)}", soft_wrap=True)


def show_champion(console: Console, record: Mapping[str, Any] | None) -> None:
    """Print the released model."""
    if record is None:
        console.print("Champion: none yet")
        return
    console.print(
        f"Champion: [bold]{plain(record['name'])}[/] since {record['since']}: {plain(record['reason'])}", soft_wrap=True
    )


def show_request(console: Console, request: MoveRequest | None) -> None:
    """Print the open request to move the champion, with what it rests on."""
    if request is None:
        console.print("No request is open.")
        return
    how = " (forced)" if request.promotion["forced"] else ""
    console.print(f"[bold]{plain(request.name)}[/]{how}: {plain(request.promotion['reason'])}", soft_wrap=True)
    for lacking in request.promotion["evidence"].get("lacks", ()):
        console.print(f"  lacks: {plain(lacking)}", soft_wrap=True)
    console.print(f"{plain(request.describe())} ({request.time})", soft_wrap=True)


def show_exposures(console: Console, document: Mapping[str, Any]) -> None:
    """Print how often the test rows were used."""
    console.print(
        f"{document['test_conversations']} test conversations, part of {document['tests']:.1f} of "
        f"{document['used_up_at']} tests since the rules last moved the champion. The next candidate must lead by "
        f"{document['needed_lead']:.2f} standard errors (p of at most {document['level']:.2g}).",
        soft_wrap=True,
    )
    if document["message"]:
        console.print(f"[yellow]Used up:[/] {plain(document['message'])}", soft_wrap=True)
    table = _table("entry", "time", "by", "candidates")
    for entry in document["entries"]:
        table.add_row(
            str(entry["entry"]), entry["time"], plain(entry["by"] or ""), plain(", ".join(entry["candidates"]))
        )
    if document["entries"]:
        console.print(table)


def show_validation(console: Console, document: Mapping[str, Any]) -> None:
    """Print the result of `ft validate`: the counts, each reason code with its first rows, the warnings."""
    if document["error"]:
        error = document["error"]
        console.print(f"[red]refused[/] {error['code']}: {plain(error['message'])}", soft_wrap=True)
        return
    counts = ", ".join(f"{document[key]:,} {key}" for key in ("read", "accepted", "quarantined", "duplicates"))
    console.print(f"{plain(document['file'])} ({document['format']}): {counts}")
    for code, rows in document["reasons"].items():
        more = f" and {len(rows) - FIRST_ROWS} more" if len(rows) > FIRST_ROWS else ""
        console.print(f"  {code}: row {', '.join(map(str, rows[:FIRST_ROWS]))}{more}")
    for warning in document["warnings"]:
        console.print(f"  [yellow]warning[/] {warning['code']}: {plain(warning['message'])}", soft_wrap=True)


def show_rows(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the rows of a query."""
    table = _table(*(plain(column) for column in columns))
    for row in rows:
        table.add_row(*(plain("" if value is None else str(value)) for value in row))
    console.print(table)
    console.print(f"{len(rows)} rows")


def show_memory(console: Console, document: Mapping[str, Any]) -> None:
    """Print the parts with bars on one scale, the total, whether it fits, and the advice."""
    table = _table("memory for", "GB", "share", justify_right={"GB"})
    total = document["total_gb"]
    for name, size in document["bytes"].items():
        table.add_row(name, f"{size / 1e9:.2f}", "█" * round(40 * size / 1e9 / total))
    table.add_section()
    table.add_row("total", f"{total:.2f}", "")
    console.print(f"{document['technique']}, {document['params']:,} parameters:")
    if "ranks" in document:
        console.print(f"Memory of {describe_ranks(document['ranks'])}. The table is for one of them.")
    console.print(table)
    if document["fits"] is not None:
        fits = "[green]fits[/]" if document["fits"] else "[yellow]does not fit[/]"
        least = "" if document["fits"] else f"; it needs at least {document['lower_bound_gb']:.1f} GB"
        console.print(f"{fits} in {document['gpu_memory_gb']:g} GB{least}")
    if "cpu_gb" in document:  # of an experiment
        console.print(f"On a CPU: {describe_cpu_memory(document['cpu_gb'])}")
    for line in document["advice"]:
        console.print(f"  · {plain(line)}", soft_wrap=True)


def _score(score: Score | None, with_interval: bool) -> str:
    if score is None:
        return ""
    value = f"{score.value:.3f}"
    low, high = score.ends
    return f"{value} [dim]{low:.3f}–{high:.3f}[/]" if with_interval else value


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(*columns: str, justify_right: set[str] | None = None) -> Table:
    """Return an empty table. Numbers and names stay on one line; other texts are wrapped."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        right = column in (justify_right or ())
        table.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=column in ONE_LINE_COLUMNS
        )
    return table
