"""`ft plan`: memory, time and money of an experiment before it runs, and afterwards how far off that was."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.common import experiment_names, stderr
from ft_pipeline.cli.display_plan import show_plan
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.plan_steps import Counted, PlannedPart, assets_to_count, count_rows, parts_of
from ft_pipeline.execution.run import load_steps, run_up_to
from ft_pipeline.execution.workers.gpus import visible_gpus
from ft_pipeline.project import Project
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.training_data import assets_not_read
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.training.memory.estimate import estimate_experiment
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
