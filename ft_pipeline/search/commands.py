"""`ft sweep`: search for better settings of an experiment, within a budget."""

import re
import signal
from typing import Annotated

import typer

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.search.display import show_sweep

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
"""Seconds of each unit of `--budget`."""


@command
def sweep(
    project: Project,
    experiment: Annotated[
        str, typer.Argument(help="Experiment whose settings are varied.", autocompletion=experiment_names)
    ],
    over: Annotated[
        list[str],
        typer.Option("--over", help="Setting and its values: KEY=LOW..HIGH or KEY=VALUE,VALUE. Repeat for several."),
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Time for all trials, over all restarts: 90m, 2h. A trial that would not fit "
            "into what is left is not started.",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Number of trials, over all restarts.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the search. Trainings keep their own.")] = 42,
) -> Answer:
    """Train variations of an experiment, stop those that fall behind, and write the best one as a new experiment. Only
    validation losses decide. Run the same command again to go on after an interruption.

    Example: ft sweep lora --over training.learning_rate=1e-4..3e-3 --over lora.r=8,32 --budget 2h
    """
    from ft_pipeline.execution.workers.launchers import check_environment
    from ft_pipeline.search.result import conclude
    from ft_pipeline.search.study import SweepRequest
    from ft_pipeline.search.sweep import run_sweep
    from ft_pipeline.store.journal import sign_new_store

    seconds = None if budget is None else read_duration(budget)
    check_environment()
    sign_new_store(project.store)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it
    request = SweepRequest(project, experiment, tuple(over), seconds, trials, seed)
    with live_progress(stderr):
        finished = run_sweep(request, lambda line: say(stderr, plain(line)))
    return Answer(conclude(finished, project.settings.costs.gpu_hour), show_sweep)


def read_duration(text: str) -> float:
    """Return the seconds of a duration such as `90m` or `1h30m`. UserError if it is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(s|min|m|h|d)", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UserError(f"--budget {text} is not a duration. Write, for example, 90m, 2h or 1h30m.")
    return seconds
