"""`ft plan`: memory, time and money of a training before it runs, and afterwards how far off that was."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.common import JsonOption, ProjectOption, experiment_names, open_project, print_result, stdout
from ft_pipeline.errors import UserError
from ft_pipeline.execution.pace import format_duration
from ft_pipeline.execution.workers.gpus import visible_gpus
from ft_pipeline.project import Project
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.learning_rates import with_learning_rate
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.training import time_estimate
from ft_pipeline.training.memory.estimate import estimate_experiment


def plan(
    experiment: Annotated[str, typer.Argument(help="Experiment that is planned.", autocompletion=experiment_names)],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the memory, time and money of a training on this machine and on common GPUs, and how far off it was.
    `ft run --plan` is another thing: it shows which steps would run.

    Example: ft plan lora
    """
    document = plan_training(open_project(project), experiment)
    print_result(document, as_json, lambda result: show_plan(stdout, result))


def plan_training(project: Project, name: str) -> dict[str, Any]:
    """Return the plan of an experiment. UserError if its training data is not there: its tokens are counted in it."""
    settings = project.experiment(name)
    store = ArtifactStore(project.store)
    data = current_artifact(store, "training_data", name)
    base = current_artifact(store, "base_model", name)
    if data is None or base is None:
        raise UserError(
            f"The training data of {name} is not there yet, so its tokens are not counted. "
            f"Prepare it without training: ft run --experiment {name} --select {','.join(PREPARED)}"
        )
    config, audit = base.document("config.json"), data.summary["audit"]
    settings = with_learning_rate(settings, base.summary["params"])
    work = time_estimate.work_of(settings, config, audit, None)
    memory = estimate_experiment(settings, config, audit["lengths"]["max"], None, params=base.summary["params"])
    trainings = time_estimate.measured_trainings(store)
    adapter = current_artifact(store, "adapter", name)
    return {
        "experiment": name,
        "tokens": round(work.tokens),
        "steps": work.steps,
        "memory_gb": memory["total_gb"],
        "cpu_gb": memory["cpu_gb"],
        "devices": _device_rows(project, settings, work, memory, trainings),
        "afterwards": adapter and time_estimate.hindsight(store, adapter, trainings),
    }


PREPARED = (
    *(
        "experiment",
        "base_model",
        "raw_alpaca",
        "raw_chat",
        "raw_feedback",
        "raw_preferences",
        "raw_sharegpt",
        "raw_text",
        "raw_traces",
    ),
    *(
        "raw_unlabelled",
        "alpaca",
        "chat",
        "sharegpt",
        "text",
        "preferences",
        "feedback",
        "traces",
        "unlabelled",
        "conversations",
    ),
    *("teacher_answers", "distilled", "training_data"),
)
"""The assets that training data needs."""


def _device_rows(
    project: Project,
    settings: ExperimentSettings,
    work: time_estimate.Work,
    memory: dict[str, Any],
    trainings: list[time_estimate.Measured],
) -> list[dict[str, Any]]:
    """Return a row for this machine, for other devices that the store has trainings of, and for common GPUs."""
    price = project.settings.costs.gpu_hour
    gpus = [gpu.name for gpu in visible_gpus()][: settings.gpu.count]
    here = time_estimate.device_name(gpus, provenance.hardware())
    devices = dict.fromkeys([here, *(training.device for training in trainings)])
    rows = []
    for device in devices:
        seconds = time_estimate.estimate(work, settings, trainings, device)
        if seconds is None and gpus:
            continue
        if seconds is None:
            seconds = time_estimate.assumed(work, time_estimate.CPU_SPEED, "no training was measured on this CPU")
        label = f"{device} (this machine)" if device == here else device
        rows.append(_row(label, seconds, None if price is None else (price, price), None))
    for gpu in time_estimate.COMMON_GPUS:
        fits = memory["total_gb"] <= gpu.memory_gb
        rows.append(_row(gpu.name, time_estimate.assumed_on_gpu(work, gpu), gpu.hour, fits))
    return rows


def _row(
    device: str, seconds: time_estimate.Range, hour: tuple[float, float] | None, fits: bool | None
) -> dict[str, Any]:
    hours = (seconds.low / 3600, seconds.high / 3600)
    cost = None if hour is None else [hours[0] * hour[0], hours[1] * hour[1]]
    return {
        "device": device,
        "seconds": [seconds.low, seconds.high],
        "cost": cost,
        "fits": fits,
        "basis": seconds.basis,
    }


def show_plan(console: Console, document: dict[str, Any]) -> None:
    """Print the plan, and how far off it was."""
    console.print(
        f"{document['experiment']}: {document['tokens']:,} tokens in {document['steps']:,} steps. It needs about "
        f"{document['memory_gb']:.1f} GB on a GPU."
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("device", "time", "cost", "fits", "basis"):
        table.add_column(column)
    for row in document["devices"]:
        low, high = (format_duration(seconds) for seconds in row["seconds"])
        cost = "" if row["cost"] is None else f"{row['cost'][0]:.2g} to {row['cost'][1]:.2g}"
        fits = {None: "", True: "yes", False: "no"}[row["fits"]]
        table.add_row(row["device"], low if low == high else f"{low} to {high}", cost, fits, row["basis"])
    console.print(table)
    console.print(
        "Time = tokens × work per token / speed; docs/plan.md states the formula. The cost on this machine uses "
        "costs.gpu_hour. Prices of other GPUs are assumptions in US dollars.",
        soft_wrap=True,
    )
    if document["afterwards"]:
        console.print(_describe_afterwards(document["afterwards"]), soft_wrap=True)


def _describe_afterwards(after: dict[str, Any]) -> str:
    text = f"The last training took {format_duration(after['seconds'])}. "
    if after["estimate"] is None:
        text += "No earlier training on its device could be used for an estimate. "
    else:
        low, high = (format_duration(seconds) for seconds in after["estimate"])
        text += f"Earlier trainings gave {low} to {high}: it took {after['off_by']:.2f} times the middle. "
    early = " It stopped early." if after["stopped_early"] else ""
    return f"{text}Memory: {after['peak_memory_gb']:.2f} GB at its peak, {after['memory_gb']:.2f} GB estimated.{early}"
