"""`ft plan`: memory, time and money of an experiment before it runs, and afterwards how far off that was."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_tables import new_table
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.cli.plan_steps import Counted, PlannedPart, assets_to_count, count_rows, parts_of
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.run import run_up_to
from ft_pipeline.execution.workers.gpus import visible_gpus
from ft_pipeline.pace import format_duration
from ft_pipeline.project import Project
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.training_data import assets_not_read
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.training.memory.estimate import describe_cpu_memory, estimate_experiment
from ft_pipeline.training.memory.rank_share import describe_ranks
from ft_pipeline.training.step_history import hindsight, measured_steps
from ft_pipeline.training.time_estimate import (
    COMMON_GPUS,
    PRICED,
    Measured,
    Range,
    added,
    assumed,
    device_name,
    estimate,
    one_of,
)

MONTHS_OF_PRICES = 12
"""Age of the assumed prices from which on it is named."""


@command
def plan(
    project: Project,
    experiment: Annotated[str, typer.Argument(help="Experiment that is planned.", autocompletion=experiment_names)],
    prepare: Annotated[
        bool, typer.Option("--prepare", help="First make the training data, whose tokens are counted.")
    ] = False,
) -> Answer:
    """Estimate the memory, time and money of an experiment on this machine and on common GPUs, and how far off it was.
    `ft run --plan` is another thing: it shows which steps would run.

    Example: ft plan lora
    """
    if prepare:
        sign_new_store(project.store)
        with live_progress(stderr):
            assets = assets_to_count(project.experiment(experiment))
            run_up_to(project, experiment, assets, assets_not_read(project, experiment))
    return Answer(plan_experiment(project, experiment), show_plan)


def plan_experiment(project: Project, name: str) -> dict[str, Any]:
    """Return the plan of an experiment. UserError if its rows are not there: they are counted in it."""
    project.experiment(name)
    load_steps()
    store = ArtifactStore(project.store)
    context = SpecContext(project, store, name)
    counted = count_rows(context)
    parts = parts_of(context, counted)
    measured = measured_steps(store)
    memory = _memory(counted)
    here = device_name([gpu.name for gpu in visible_gpus()][: counted.settings.gpu.count], provenance.hardware())
    training = next(part.work for part in parts if part.name == "training")
    adapter = current_artifact(store, "adapter", name)
    assert training is not None
    return {
        "experiment": name,
        "tokens": round(training.tokens),
        "steps": training.steps,
        "tokens_assumed": counted.is_assumed,
        "memory_gb": memory["total_gb"],
        "memory_by_rank": memory.get("ranks"),
        "cpu_gb": memory["cpu_gb"],
        "gpus": counted.settings.gpu.count,
        "parts": [_part_row(part, _estimate(part, measured, here)) for part in parts],
        "devices": [
            *_measured_rows(project, parts, measured, here),
            *_common_rows(parts, _least_gb(memory), counted.settings.gpu.count),
        ],
        "priced": PRICED.isoformat(),
        "afterwards": adapter and hindsight(store, adapter, measured),
    }


def _memory(counted: Counted) -> dict[str, Any]:
    longest = counted.audit["lengths"]["max"]
    return estimate_experiment(
        counted.settings, counted.config, longest, None, params=counted.params, teacher=counted.teacher
    )


def _least_gb(memory: dict[str, Any]) -> float:
    """Return the memory that one GPU needs, with FSDP2 if the experiment has several GPUs and FSDP2 supports it."""
    by_rank = memory.get("ranks") or {}
    needs = [memory["total_gb"], by_rank.get("fsdp2_gb")]
    return min(need for need in needs if need is not None)


def _estimate(part: PlannedPart, measured: Sequence[Measured], device: str) -> Range | None:
    """Return the seconds of a step on a device; None if its rows, or the device, are not known. Of several GPUs, only a
    training uses more than one."""
    if part.work is None:
        return None
    used = device if part.kind == "adapter" else one_of(device)
    return estimate(part.work, part.kind, part.settings, measured, used)


def _part_row(part: PlannedPart, seconds: Range | None) -> dict[str, Any]:
    return {
        "step": part.name,
        "counts": part.counts,
        "seconds": None if seconds is None else [seconds.low, seconds.high],
        "basis": seconds.basis if seconds else "unknown",
    }


def _measured_rows(
    project: Project, parts: Sequence[PlannedPart], measured: list[Measured], here: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for this machine, and for other devices that the store has steps of.

    A row has the seconds of all steps that count and that are known, here and below.
    """
    price = project.settings.costs.gpu_hour
    counted = [part for part in parts if part.counts]
    for device in dict.fromkeys([here, *(entry.device for entry in measured)]):
        ranges = [seconds for part in counted if (seconds := _estimate(part, measured, device))]
        if ranges:
            row = _device_row(device, added(ranges), None if price is None else (price, price), None)
            yield row | {"here": device == here}


def _common_rows(parts: Sequence[PlannedPart], least_gb: float, gpus: int) -> Iterator[dict[str, Any]]:
    """Yield a row for one of each common GPU. Its name says so if the experiment has several (`gpus`)."""
    for gpu in COMMON_GPUS:
        seconds = added(assumed(part.work, gpu) for part in parts if part.counts and part.work)
        name = f"1 x {gpu.name}" if gpus > 1 else gpu.name
        yield _device_row(name, seconds, gpu.hour, least_gb <= gpu.memory_gb) | {"here": False}


def _device_row(device: str, seconds: Range, hour: tuple[float, float] | None, fits: bool | None) -> dict[str, Any]:
    hours = (seconds.low / 3600, seconds.high / 3600)
    cost = None if hour is None else [hours[0] * hour[0], hours[1] * hour[1]]
    return {
        "device": device,
        "seconds": [seconds.low, seconds.high],
        "cost": cost,
        "fits": fits,
        "basis": seconds.basis,
    }


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
