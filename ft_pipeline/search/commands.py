"""`ft sweep`: search for better settings of an experiment, within a budget."""

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_tables import new_table, print_columns
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError
from ft_pipeline.pace import format_duration
from ft_pipeline.project import Project
from ft_pipeline.search.sampling import MIN_FOR_IMPORTANCE
from ft_pipeline.search.space import yaml_text
from ft_pipeline.search.trials import describe_loss, measure_of

BAR_WIDTH = 30
"""Letters of a bar that stands for all of the variance."""


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


def show_sweep(console: Console, document: Mapping[str, Any]) -> None:
    """Print the trials, what mattered, what it cost and what was chosen."""
    print_columns(console, _trial_table(document))
    for trial in document["trials"]:
        if trial["message"]:
            say(console, f"{trial['name']} failed: {plain(trial['message'])}")
    _show_importances(console, document)
    cost = "" if document["cost"] is None else f", {document['cost']:.2f} by costs.gpu_hour"
    say(
        console,
        f"{len(document['trials'])} trials took {format_duration(document['seconds'])} "
        f"({document['device_hours']:.2f} device hours{cost}).\nThe search ended: {plain(document['ended_because'])}.",
    )
    _show_chosen(console, document)


def _trial_table(document: Mapping[str, Any]) -> Table:
    """Return the trials with their values, the best one first."""
    keys = sorted({key for trial in document["trials"] for key in trial["values"]})
    chosen = document["chosen"] and document["chosen"]["trial"]
    table = new_table("trial", *_short_names(keys), measure_of(document["objective"]), "steps", "time")
    order = {"complete": 0, "pruned": 1, "failed": 2}
    for trial in sorted(document["trials"], key=lambda trial: (order[trial["state"]], trial["loss"] or 0.0)):
        state = "best" if trial["number"] == chosen else "" if trial["state"] == "complete" else trial["state"]
        values = [plain(yaml_text(trial["values"][key])) for key in keys]
        time = format_duration(trial["seconds"])
        loss = describe_loss(trial["loss"], document["objective"])
        name = f"try{trial['number']}{f' {state}' if state else ''}"
        table.add_row(name, *values, loss, str(trial["steps"]), time)
    return table


def _short_names(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key, or the whole key if another one ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def _show_importances(console: Console, document: Mapping[str, Any]) -> None:
    if not document["importances"]:
        say(console, f"What mattered is not known: under {MIN_FOR_IMPORTANCE} complete trials, or equal losses.")
        return
    say(console, "What mattered (share of the differences between complete trials):")
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, share in document["importances"].items():
        table.add_row(f"  {key}", f"{share:.0%}", "█" * round(BAR_WIDTH * share))
    console.print(table)
    say(console, f"Picture: {plain(document['picture'])}")


def _show_chosen(console: Console, document: Mapping[str, Any]) -> None:
    chosen = document["chosen"]
    if chosen is None:
        say(console, "No trial was finished, so nothing was chosen.")
        return
    name = chosen["experiment"]
    if name == document["experiment"]:
        say(console, f"The experiment's own values were the best. Go on with:\n  ft run --experiment {name}")
        return
    written = "Wrote" if chosen["new"] else "Kept"
    say(
        console,
        f"{written} experiments/{name}.yaml, the best on validation rows.\n"
        f"Its training is in the store already. Compare it on test rows:\n  ft run --experiment {name}",
    )
