"""`ft status`, `ft logs` and `ft cancel`: the runs of a project, without loading its definitions."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import experiment_names, stderr, stdout
from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import is_terminal, plain, say

if TYPE_CHECKING:
    from ft_pipeline.project import Project

ID_DIGITS = 8
STYLES = {"running": "green", "waiting": "yellow", "queued": "cyan", "process gone": "red", "failed": "red"}


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


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="First characters of a run's id, or an experiment (its newest run).",
        autocompletion=experiment_names,
    ),
]


@command
def status(project: UnopenedProject) -> Answer:
    """Show what runs, what waits and behind whom, what failed last, the schedules, the champion and the disk.

    Example: ft status
    """

    return Answer(_status(project.open(despite_secrets=True)), show_status)


def _status(project: "Project") -> dict[str, Any]:
    from ft_pipeline.execution.instance import open_instance
    from ft_pipeline.execution.run_overview import read_overview
    from ft_pipeline.release.champion import current

    with open_instance() as instance:
        overview = read_overview(instance, project.store)
    champion = current(project.store)
    disk = shutil.disk_usage(project.store if project.store.exists() else project.root)
    return {
        "runs": [row.to_json() for row in overview.active],
        "failed": [row.to_json() for row in overview.failed],
        "daemon_runs": overview.daemon_runs,
        "schedules": overview.schedules,
        "champion": {"name": champion.name, "since": champion.since} if champion else None,
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
    }


@command
def logs(
    project: UnopenedProject,
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> None:
    """Print the log of a run.

    Example: ft logs qlora -f
    """
    project.open()  # Dagster reads the environment
    from ft_pipeline.execution.instance import open_instance
    from ft_pipeline.execution.run_control import find_run, log_entries
    from ft_pipeline.execution.run_overview import describe_step_failure

    shown = RunLog(stdout)
    with open_instance() as instance:
        found = find_run(instance, run)
        for entry in log_entries(instance, found.run_id, follow=follow):
            failed = entry.is_dagster_event and entry.get_dagster_event().is_step_failure
            message = describe_step_failure(entry.get_dagster_event()) if failed else entry.message
            when = datetime.fromtimestamp(entry.timestamp, UTC).astimezone()
            shown.print(when, entry.step_key, message)


@command
def cancel(
    project: UnopenedProject,
    run: RunArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Mark it as canceled even if its process cannot be reached.")
    ] = False,
) -> None:
    """Cancel a run: one that is under way (it saves a checkpoint), one that waits, or one whose process is gone.

    Example: ft cancel qlora
    """
    opened = project.open()
    from ft_pipeline.execution.instance import open_instance
    from ft_pipeline.execution.run_control import cancel_run, find_run

    with open_instance() as instance:
        found = find_run(instance, run)
        say(stderr, f"Canceling run {found.run_id[:8]} …")
        say(stdout, f"Run {found.run_id[:8]}: {cancel_run(instance, opened.store, found, force=force)}.")


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
