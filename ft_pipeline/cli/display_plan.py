"""Output of `ft plan` in a terminal of 80 columns."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.pace import format_duration
from ft_pipeline.training.memory.estimate import describe_cpu_memory
from ft_pipeline.training.memory.rank_share import describe_ranks

MONTHS_OF_PRICES = 12
"""Age of the assumed prices from which on it is named."""


def show_plan(console: Console, document: Mapping[str, Any]) -> None:
    """Print the plan, and how far off it was."""
    say(
        console,
        f"{document['experiment']}: {document['tokens']:,} tokens in {document['steps']:,} steps.\n"
        f"Memory: {document['memory_gb']:.1f} GB on a GPU; on a CPU {describe_cpu_memory(document['cpu_gb'])}.",
    )
    if by_rank := document["memory_by_rank"]:
        say(console, f"Memory of {describe_ranks(by_rank)}.")
    if document["tokens_assumed"]:
        say(console, "The teacher has not answered yet: its answers are assumed to be as long as allowed.")
    console.print(_part_table(document))
    console.print(_device_table(document))
    priced = date.fromisoformat(document["priced"])
    months = (date.today() - priced).days // 30
    age = f", {months} months ago" if months > MONTHS_OF_PRICES else ""
    say(
        console,
        "docs/plan.md has the formula. Costs on this machine use costs.gpu_hour. Prices "
        f"of common GPUs are ranges in US dollars, assumed in {priced:%B %Y}{age}. Look yours up.",
    )
    if document["afterwards"]:
        say(console, describe_afterwards(document["afterwards"]))


def _part_table(document: Mapping[str, Any]) -> Table:
    """Return the steps on this machine."""
    table = new_table("step on this machine", "time", "basis")
    for part in document["parts"]:
        basis = part["basis"] if part["counts"] else "in the store already"
        time = describe_range(part["seconds"]) if part["counts"] else "none"
        table.add_row(plain(part["step"]), time, basis)
    return table


def _device_table(document: Mapping[str, Any]) -> Table:
    """Return the sum of the steps on each device."""
    table = new_table("all steps on", "time", "cost", "fits")
    for row in document["devices"]:
        cost = "" if row["cost"] is None else f"{row['cost'][0]:.2g} to {row['cost'][1]:.2g}"
        fits = {None: "", True: "yes", False: "no"}[row["fits"]]
        name = f"this machine ({row['device']})" if row["here"] else row["device"]
        table.add_row(plain(name), describe_range(row["seconds"]), cost, fits)
    return table


def describe_range(seconds: Sequence[float] | None) -> str:
    """Return, for example, `2 min 10 s to 3 min 5 s`."""
    if seconds is None:
        return "unknown"
    low, high = (format_duration(value) for value in seconds)
    return low if low == high else f"{low} to {high}"


def describe_afterwards(after: Mapping[str, Any]) -> str:
    """Return how long the last training took, how much memory it used, and how far off the estimates were."""
    if after["interrupted"]:
        text = "The last training was interrupted, so its time is not compared. "
    elif after["estimate"] is None:
        took = format_duration(after["seconds"])
        text = f"The last training took {took}. No earlier one on its device could be used for an estimate. "
    else:
        text = (
            f"The last training took {format_duration(after['seconds'])}. Earlier ones gave "
            f"{describe_range(after['estimate'])}: it took {after['off_by']:.2f} times the middle. "
        )
    early = " It stopped early." if after["stopped_early"] else ""
    before = f", {after['memory_before_gb']:.2f} GB of it before the model" if after["memory_before_gb"] else ""
    memory = f"{after['peak_memory_gb']:.2f} GB at its peak{before}; {after['memory_gb']:.2f} GB estimated"
    return f"{text.rstrip()}\nMemory: {memory}: {after['memory_off_by']:.2f} times.{early}"
