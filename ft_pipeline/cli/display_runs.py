"""Output of `ft status` and `ft logs`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import is_terminal, plain, say

ID_DIGITS = 8
STYLES = {"running": "green", "waiting": "yellow", "queued": "cyan", "process gone": "red", "failed": "red"}


def show_status(console: Console, document: Mapping[str, Any]) -> None:
    """Print the runs, what failed last, the schedules, the champion and the disk."""
    if document["runs"]:
        _show_runs(console, document["runs"], "since")
    else:
        say(console, "Nothing runs, and nothing waits.")
    if document["failed"]:
        _show_runs(console, document["failed"], "failed at")
    for schedule in document["schedules"]:
        say(console, _describe_schedule(schedule))
    if not document["daemon_runs"]:
        say(console, "No daemon runs, so nothing starts by itself: start it with `ft ui`.")
    champion, disk = document["champion"], document["disk"]
    say(
        console,
        f"Champion: {escape(champion['name'])}, since {champion['since'][:16]}." if champion else "No champion yet.",
    )
    say(console, f"Disk: {disk['free_bytes'] / 1e9:.1f} GB free of {disk['total_bytes'] / 1e9:.1f} GB.")


class RunLog:
    """Prints the log of a run: in a terminal each day once, in a file the whole time on each line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._day = ""

    def print(self, when: datetime, step: str | None, message: str) -> None:
        """Print an event, made safe for a terminal."""
        message = plain(message.replace("\t", "    "))
        if not is_terminal(self._console):
            say(self._console, f"{when:%Y-%m-%d %H:%M:%S}  {step or '':<20}  {message}")
            return
        if (day := f"{when:%Y-%m-%d}") != self._day:
            self._day = day
            say(self._console, f"[dim]{day}[/]")
        text = f"[bold]{plain(step)}[/]: {message}" if step else message
        say(self._console, f"{when:%H:%M:%S}  {text}", indent=len("HH:MM:SS  "))


def _show_runs(console: Console, rows: Sequence[Mapping[str, Any]], time_title: str) -> None:
    table = new_table("run", "experiment", "state", time_title, "started by", one_line={"run", "state", time_title})
    for row in rows:
        style = STYLES.get(row["state"], "white")
        table.add_row(
            row["run_id"][:ID_DIGITS],
            escape(row["experiment"] or ""),
            f"[{style}]{row['state']}[/]",
            _time(row["since"]),
            escape(row["started_by"]),
        )
    console.print(table)
    for row in rows:
        if row["reason"]:
            say(console, f"  · {row['run_id'][:ID_DIGITS]}: {plain(row['reason'])}")


def _describe_schedule(schedule: Mapping[str, Any]) -> str:
    state = f"runs at `{schedule['cron']}`" if schedule["running"] and schedule["cron"] else "runs"
    state = state if schedule["running"] else "is stopped"
    last = f"; last tick {_time(schedule['last_tick'])}: {schedule['outcome']}" if schedule["last_tick"] else ""
    return escape(f"Schedule {schedule['name']} {state}{last}.")


def _time(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}" if seconds else ""
