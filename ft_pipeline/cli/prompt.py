"""`ft prompt`: search the best prompt for a base model."""

from typing import Annotated, Any

import typer
from rich.console import Console

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_text import plain, say, say_line
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project


@command
def prompt(
    project: Project,
    experiment: Annotated[
        str | None,
        typer.Argument(
            help="Experiment whose base model is prompted (default: the first one).", autocompletion=experiment_names
        ),
    ] = None,
) -> Answer:
    """Search the best prompt for the base model on the validation rows, and show what it gains. `ft run` scores it on
    the test rows. Run the same command again to go on after an interruption.

    Example: ft prompt lora
    """
    from ft_pipeline.execution.run import run_up_to
    from ft_pipeline.step import SpecContext
    from ft_pipeline.store.artifacts import ArtifactStore
    from ft_pipeline.store.journal import sign_new_store

    name = experiment or _first_experiment(project)
    project.experiment(name)
    if project.settings.prompting.search is None:
        raise UserError(
            "This project searches no prompt. Add the line `search: {}` under `prompting:` in project.yaml, and run "
            "`ft prompt` again."
        )
    sign_new_store(project.store)
    with live_progress(stderr):
        run_up_to(project, name, ("searched_prompt",))
    found = SpecContext(project, ArtifactStore(project.store), name).artifact("searched_prompt")
    if not found.summary["tries"]:
        raise UserError(found.summary["ended"])
    return Answer({"experiment": name, **found.summary}, _show)


def _first_experiment(project: Project) -> str:
    names = project.experiment_names()
    if not names:
        raise UserError("There is no experiment, which says what the base model is. Add one to experiments/.")
    return names[0]


def _show(console: Console, document: dict[str, Any]) -> None:
    from ft_pipeline.evaluation.prompt_search.tries import describe
    from ft_pipeline.steps.searched_prompt import describe_reflector, written

    say(console, plain(describe(document)))
    if "instructions" in document:
        say(console, plain(describe_reflector(document["instructions"])))
    say(console, plain(written(document["variant"])))
    say_line(console, f"Next: ft run --experiment {document['experiment']}   scores it on the test rows")
