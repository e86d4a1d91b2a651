"""`ft status`, `ft logs` and `ft cancel`: the runs of a project, without loading its definitions."""

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.common import experiment_names, stderr, stdout
from ft_pipeline.cli.display_text import say

if TYPE_CHECKING:
    from ft_pipeline.project import Project

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
    from ft_pipeline.cli.display_runs import show_status

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
    from ft_pipeline.cli.display_runs import RunLog
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
