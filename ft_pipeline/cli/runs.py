"""`ft status`, `ft logs` and `ft cancel`: the runs of a project, without loading its definitions."""

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ft_pipeline.cli.common import (
    JsonOption,
    ProjectOption,
    experiment_names,
    open_project,
    print_result,
    stderr,
    stdout,
)
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


def status(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, what waits and behind whom, what failed last, the schedules, the champion and the disk.

    Example: ft status
    """
    from ft_pipeline.cli.display_runs import show_status

    document = _status(open_project(project, despite_secrets=True))
    print_result(document, as_json, lambda shown: show_status(stdout, shown))


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


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    project: ProjectOption = None,
) -> None:
    """Print the log of a run.

    Example: ft logs qlora -f
    """
    open_project(project)
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


def cancel(
    run: RunArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Mark it as canceled even if its process cannot be reached.")
    ] = False,
    project: ProjectOption = None,
) -> None:
    """Cancel a run: one that is under way (it saves a checkpoint), one that waits, or one whose process is gone.

    Example: ft cancel qlora
    """
    opened = open_project(project)
    from ft_pipeline.execution.instance import open_instance
    from ft_pipeline.execution.run_control import cancel_run, find_run

    with open_instance() as instance:
        found = find_run(instance, run)
        say(stderr, f"Canceling run {found.run_id[:8]} …")
        say(stdout, f"Run {found.run_id[:8]}: {cancel_run(instance, opened.store, found, force=force)}.")
