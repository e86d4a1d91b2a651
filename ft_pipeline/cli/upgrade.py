"""`ft upgrade --plan`: what a new version would run again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ft_pipeline.cli import display
from ft_pipeline.cli.command import Answer, UnopenedProject, command
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.errors import UserError

if TYPE_CHECKING:
    from ft_pipeline.execution.upgrades import Because, UpgradedStep, UpgradePlan

HEADINGS: tuple[tuple["Because", str], ...] = (
    ("version", "Would run again, because the version changes them"),
    ("follows", "Would follow; each of them is reused if the step before it gives the same result"),
    ("other", "Would run for another reason: new data, settings or defaults that changed, or never run"),
)


@command
def upgrade(
    project: UnopenedProject,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would run again, why, and what it took before.")
    ] = False,
) -> Answer:
    """Show what the installed version would run again in this project's store, and what it would not. Nothing is run.

    Example: ft upgrade --plan
    """
    from ft_pipeline.execution.upgrades import plan_upgrade

    if not plan:
        raise UserError(
            "There is nothing to upgrade in a project: the next `ft run` runs what a new version changes. To see that "
            "first, add --plan. To upgrade the package, use pip."
        )
    result = plan_upgrade(project.open())
    return Answer(result.to_json(), lambda console, _: _show(console, result))


def _show(console: Console, plan: "UpgradePlan") -> None:
    made_by = ", ".join(plan.made_by) or "no version"
    say(console, f"Installed: version {plan.installed}. The present artifacts were made by {made_by}.")
    for because, heading in HEADINGS:
        steps = [step for step in plan.steps if step.because == because]
        if steps:
            say(console, f"\n{heading}: {_cost(steps)}")
            console.print(display.upgrade_table(steps))
    kept = [step for step in plan.steps if not step.runs]
    say(console, f"\nWould not run again: {_cost(kept)}")
    say(console, plain(", ".join(dict.fromkeys(step.asset for step in kept))))


def _cost(steps: Sequence["UpgradedStep"]) -> str:
    """Return the number of the steps, and what they took before."""
    from ft_pipeline.pace import format_duration

    times = [step.seconds for step in steps]
    known = [seconds for seconds in times if seconds is not None]
    unknown = f" ({len(times) - len(known)} unknown)" if len(known) < len(times) else ""
    counted = f"{len(times)} step" + ("" if len(times) == 1 else "s")
    return f"{counted}, which took {format_duration(sum(known))} before{unknown}"
