"""Output of `ft` in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.release.requests import MoveRequest
from ft_pipeline.training.memory.estimate import describe_cpu_memory
from ft_pipeline.training.memory.rank_share import describe_ranks

STATUS_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}
STATE_STYLES = {"fresh": "green", "stale": "yellow", "never_run": "cyan", "failed": "red", "broken": "red"}
FIRST_ROWS = 10
"""Number of rows that are shown for each reason code."""


def show_findings(console: Console, findings: Sequence[Any]) -> None:
    """Print the findings of `ft doctor`."""
    table = new_table("check", "status", "found", one_line={"check", "status"})
    for finding in findings:
        style = STATUS_STYLES[finding.status]
        fix = f"\n[bold]→ {plain(finding.fix)}[/]" if finding.fix else ""
        table.add_row(finding.what, f"[{style}]{finding.status}[/]", plain(finding.seen) + fix)
    console.print(table)


def show_plan(console: Console, planned: Sequence[Any]) -> None:
    """Print the steps that would run, with the reason."""
    if not any(step.runs for step in planned):
        say(console, "[green]Up to date:[/] nothing to run.")
        return
    table = new_table("asset", "experiment", "state", "why", one_line={"asset", "experiment", "state"})
    for step in planned:
        state = f"[{STATE_STYLES[step.state]}]{step.state.replace('_', ' ')}[/]"
        table.add_row(step.asset, step.experiment or "", state, plain(step.reason))
    console.print(table)


def upgrade_table(steps: Sequence[Any]) -> Table:
    """Return the steps that an upgrade runs again, with the reason and the seconds that each took before."""
    table = new_table("asset", "experiment", "why", "seconds", right={"seconds"}, one_line={"asset", "experiment"})
    for step in steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
        table.add_row(step.asset, step.experiment or "", plain(step.reason), seconds)
    return table


def show_experiments(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per experiment."""
    table = new_table("name", "objective", "technique", "base model", "state", "score", one_line={"name", "state"})
    for row in rows:
        style = STATE_STYLES.get(row["state"], "white")
        score = "" if row["primary_score"] is None else f"{row['primary_score']:.3f}"
        state = f"[{style}]{row['state'].replace('_', ' ')}[/]"
        table.add_row(
            row["name"], row["objective"] or "", row["technique"] or "", row["base_model"] or "", state, score
        )
    console.print(table)
    if metric := next((row["primary_metric"] for row in rows if row["primary_score"] is not None), None):
        say(console, f"Score: {plain(metric)}.")
    for row in rows:
        if row["error"]:
            say(console, f"[red]{plain(row['error'])}[/]")


def show_recommendation(console: Console, document: Mapping[str, Any]) -> None:
    """Print the decision and its reasons."""
    if document.get("verdict"):
        say(console, f"[bold]{plain(document['verdict'])}[/]")
    experiment = f" ({plain(document['experiment'])})" if document.get("experiment") else ""
    say(console, f"Recommendation: [bold]{document['decision']}[/]{experiment}")
    for reason in document["reasons"]:
        say(console, f"  · {plain(reason)}")


def show_champion(console: Console, record: Mapping[str, Any] | None) -> None:
    """Print the released model."""
    if record is None:
        say(console, "Champion: none yet")
        return
    say(console, f"Champion: [bold]{plain(record['name'])}[/] since {record['since']}: {plain(record['reason'])}")


def show_request(console: Console, request: MoveRequest | None) -> None:
    """Print the open request to move the champion, with what it rests on."""
    if request is None:
        say(console, "No request is open.")
        return
    how = " (forced)" if request.promotion.forced else ""
    say(console, f"[bold]{plain(request.name)}[/]{how}: {plain(request.promotion.reason)}")
    for lacking in request.promotion.evidence.get("lacks", ()):
        say(console, f"  lacks: {plain(lacking)}")
    say(console, f"{plain(request.describe())} ({request.time})")


def show_exposures(console: Console, document: Mapping[str, Any]) -> None:
    """Print how often the test rows were looked at."""
    say(
        console,
        f"{document['test_conversations']} test conversations. Since the rules last moved the champion, "
        f"{document['looks']:.3g} models were looked at, of {document['designs']:.3g} settings "
        f"({document['used_up_at']} use the rows up). "
        f"The next tuned model must lead by {document['needed_lead']:.2f} standard errors (p of at most "
        f"{document['level']:.2g}).",
    )
    if document["message"]:
        say(console, f"[yellow]Fresh rows help:[/] {plain(document['message'])}")
    table = new_table("entry", "time", "by", "", "looks at", one_line={"entry", "by"})
    for entry in document["entries"]:
        how = "compared" if entry["compared"] else "scored"
        table.add_row(
            str(entry["entry"]), entry["time"], plain(entry["by"] or ""), how, plain(", ".join(entry["looks"]))
        )
    if document["entries"]:
        console.print(table)


def show_validation(console: Console, document: Mapping[str, Any]) -> None:
    """Print the result of `ft validate`: the counts, each reason code with its first rows, the warnings."""
    if document["error"]:
        error = document["error"]
        say(console, f"[red]refused[/] {error['code']}: {plain(error['message'])}")
        return
    counts = ", ".join(f"{document[key]:,} {key}" for key in ("read", "accepted", "quarantined", "duplicates"))
    say(console, f"{plain(document['file'])} ({document['format']}): {counts}")
    for code, rows in document["reasons"].items():
        more = f" and {len(rows) - FIRST_ROWS} more" if len(rows) > FIRST_ROWS else ""
        say(console, f"  {code}: row {', '.join(map(str, rows[:FIRST_ROWS]))}{more}")
    for warning in document["warnings"]:
        say(console, f"  [yellow]warning[/] {warning['code']}: {plain(warning['message'])}")


def show_memory(console: Console, document: Mapping[str, Any]) -> None:
    """Print the parts with bars on one scale, the total, whether it fits, and the advice."""
    table = new_table("memory for", "GB", "share", right={"GB"}, one_line={"memory for"})
    total = document["total_gb"]
    for name, size in document["bytes"].items():
        table.add_row(name, f"{size / 1e9:.2f}", "█" * round(40 * size / 1e9 / total))
    table.add_section()
    table.add_row("total", f"{total:.2f}", "")
    say(console, f"{document['technique']}, {document['params']:,} parameters:")
    if "ranks" in document:
        say(console, f"Memory of {describe_ranks(document['ranks'])}. The table is for one of them.")
    console.print(table)
    if document["fits"] is not None:
        fits = "[green]fits[/]" if document["fits"] else "[yellow]does not fit[/]"
        least = "" if document["fits"] else f"; it needs at least {document['lower_bound_gb']:.1f} GB"
        say(console, f"{fits} in {document['gpu_memory_gb']:g} GB{least}")
    if "cpu_gb" in document:  # of an experiment
        say(console, f"On a CPU: {describe_cpu_memory(document['cpu_gb'])}")
    for line in document["advice"]:
        say(console, f"  · {plain(line)}")
