"""Output of `ft sweep` in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display import plain
from ft_pipeline.execution.pace import format_duration
from ft_pipeline.search.space import yaml_text


def show_sweep(console: Console, document: Mapping[str, Any]) -> None:
    """Print the trials, what mattered, what it cost and what was chosen."""
    keys = sorted({key for trial in document["trials"] for key in trial["values"]})
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("trial", "state", *keys, "held-out loss", "steps", "time"):
        table.add_column(column)
    for trial in document["trials"]:
        loss = "" if trial["loss"] is None else f"{trial['loss']:.4f}"
        values = [plain(yaml_text(trial["values"][key])) for key in keys]
        time = format_duration(trial["seconds"])
        table.add_row(trial["name"], trial["state"], *values, loss, str(trial["steps"]), time)
    console.print(table)
    for trial in document["trials"]:
        if trial["message"]:
            console.print(f"{trial['name']} failed: {plain(trial['message'])}", soft_wrap=True)
    _show_importances(console, document)
    cost = "" if document["cost"] is None else f", {document['cost']:.2f} by costs.gpu_hour"
    console.print(
        f"{len(document['trials'])} trials took {format_duration(document['seconds'])} "
        f"({document['device_hours']:.2f} device hours{cost}). The search ended: {document['ended_because']}."
    )
    _show_chosen(console, document)


def _show_importances(console: Console, document: Mapping[str, Any]) -> None:
    if not document["importances"]:
        console.print("Too few complete trials, or equal losses: nothing can be said about what mattered.")
        return
    shares = ", ".join(f"{key} {share:.0%}" for key, share in document["importances"].items())
    console.print(f"What mattered (share of the variance of losses): {shares}.")
    console.print(f"Picture: {plain(document['picture'])}", soft_wrap=True)


def _show_chosen(console: Console, document: Mapping[str, Any]) -> None:
    chosen = document["chosen"]
    if chosen is None:
        console.print("No trial was finished, so nothing was chosen.")
        return
    name = chosen["experiment"]
    if name == document["experiment"]:
        console.print(f"The experiment's own values were the best. Go on with: ft run --experiment {name}")
        return
    written = "Wrote" if chosen["new"] else "Kept"
    console.print(
        f"{written} experiments/{name}.yaml, the best by validation loss. Its training is in the store already. "
        f"Compare it on test rows: ft run --experiment {name}",
        soft_wrap=True,
    )
