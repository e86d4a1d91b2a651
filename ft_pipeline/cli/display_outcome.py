"""The end of `ft run`: what changed, what to look at and what to do next."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.decide.notes import not_compared
from ft_pipeline.pace import format_duration

BATCH_STYLES = {"succeeded": "green", "failed": "red", "skipped": "yellow"}
SHORT_REASON = 200
"""Maximum letters of a reason."""
HEADS = ("Look at: ", "Next:    ")
"""Before the first command and before the last one."""


def show_outcome(console: Console, outcome: Any, project: str) -> None:
    """Print the summary of a run. project: the option that names its project; empty if it needs none."""
    if len(outcome.batches) > 1:
        show_batches(console, outcome.batches)
    if outcome.succeeded:
        _show_changes(console, outcome)
    else:
        _show_failures(console, outcome)
    decided = outcome.recommendation if _is_current(outcome) else None
    if decided:
        say(console, f"Verdict: [bold]{plain(decided.get('verdict') or decided['reasons'][0])}[/]")
        for sentence in not_compared(outcome.comparison) if outcome.comparison else ():
            say(console, f"[yellow]Not compared:[/] {plain(sentence)}")
    _show_champion(console, outcome)
    _show_commands(console, _commands(outcome, decided, project))


def show_batches(console: Console, results: Sequence[Any]) -> None:
    """Print one row per experiment, and for the steps that experiments share; then why some did not succeed."""
    table = new_table("experiment", "state", "assets", "time", right={"assets", "time"}, one_line={"experiment"})
    for result in results:
        row = result.to_json()
        state = f"[{BATCH_STYLES[row['state']]}]{row['state']}[/]"
        time = format_duration(row["seconds"])
        table.add_row(plain(row["experiment"] or "(shared)"), state, str(len(row["ran"])), time)
    console.print(table)
    for result in results:
        if result.note:
            say(console, f"{plain(result.batch.experiment or '(shared)')}: {plain(result.note)}.")


def _show_changes(console: Console, outcome: Any) -> None:
    """Print how many assets were built, and how long it took."""
    if not outcome.steps:
        say(console, f"[green]✓ Up to date:[/] {_count(outcome.fresh, 'asset')}, nothing to run.")
        return
    states = Counter(step.state for step in outcome.steps)
    parts = [f"built {_count(states['built'], 'asset')}"] if states["built"] else []
    parts += [f"reused {states['reused']} from the store"] if states["reused"] else []
    parts += [f"{outcome.fresh} {'was' if outcome.fresh == 1 else 'were'} up to date"] if outcome.fresh else []
    text = ", ".join(parts)
    say(console, f"[green]✓ Done in {format_duration(outcome.seconds)}:[/] {text}.")


def _show_failures(console: Console, outcome: Any) -> None:
    """Print what failed and why, what was not run, and what is kept."""
    say(console, f"[red]✗ Failed after {format_duration(outcome.seconds)}.[/]")
    for result in outcome.batches:
        for message in result.failures:
            say(console, f"  · [red]{plain(_with_experiment(result, message, outcome))}[/]")
    skipped = list(dict.fromkeys(name for result in outcome.batches for name in result.skipped))
    if skipped:
        say(console, f"Not run, because of that: {plain(textwrap.shorten(', '.join(skipped), SHORT_REASON))}.")
    kept = sum(step.state in ("built", "reused") for step in outcome.steps)
    say(console, f"Kept: {_count(kept, 'asset')} of this run, and the checkpoints of trainings.")


def _with_experiment(result: Any, message: str, outcome: Any) -> str:
    """Return a failure, with its experiment if there are others."""
    asset, _, rest = message.partition(": ")
    experiment = result.batch.experiment
    if experiment is None or len(outcome.batches) == 1 or asset not in result.batch.assets:
        return message
    return f"{asset} [{experiment}]: {rest}"


def _show_champion(console: Console, outcome: Any) -> None:
    """Print the released model, and whether this run released it."""
    now, before = outcome.champion, outcome.champion_before
    if now is None:
        say(console, "Champion: none yet.")
    elif before is not None and before["sequence"] == now["sequence"]:
        say(console, f"Champion: [bold]{plain(now['name'])}[/], unchanged since {now['since'][:10]}.")
    else:
        past = f"before: {plain(before['name'])}" if before else "the first one"
        say(console, f"Champion: [bold]{plain(now['name'])}[/], new with this run ({past}).")


def _is_current(outcome: Any) -> bool:
    """Whether the recommendation rests on all that this run made."""
    return not outcome.steps or any(step.asset == "recommendation" and step.succeeded for step in outcome.steps)


def _show_commands(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    """Print the commands with what they show, the next step last."""
    width = max(len(command) for command, _ in commands)
    for number, (command, what) in enumerate(commands, 1):
        head = HEADS[1] if number == len(commands) else HEADS[0] if number == 1 else " " * len(HEADS[0])
        fits = len(head) + width + 2 + len(what) <= console.width
        say_line(
            console, f"{head}[cyan]{plain(command.ljust(width) if fits else command)}[/]{f'  {what}' if fits else ''}"
        )


def _commands(outcome: Any, decided: Mapping[str, Any] | None, project: str) -> list[tuple[str, str]]:
    """Return (command, what it shows or does), the next step last."""
    if not outcome.succeeded:
        failed = next((result for result in outcome.batches if result.failures), None)
        name = failed.batch.experiment if failed else None
        logs = [(f"ft logs {name}{project}", "the log of the run")] if name else [(f"ft status{project}", "the run")]
        return [*logs, (f"ft run{project}", "again, when the cause is fixed")]
    if not decided:
        return [(f"ft ui{project}", "all assets, in the browser")]
    shown = [
        (f"ft report --open{project}", "all answers, the worst first"),
        (f"ft compare{project}", "all scores, with intervals"),
        (f"ft ui{project}", "all assets, in the browser"),
    ]
    return [*shown, _next_step(outcome, decided, project)]


def _next_step(outcome: Any, decided: Mapping[str, Any], project: str) -> tuple[str, str]:
    if decided["decision"] == "rate":
        return f"ft rate{project}", "compare answers: you decide"
    if outcome.champion is not None:
        return f"ft serve champion{project}", "use the champion"
    return f"ft recommend{project}", "why, and what would help"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
