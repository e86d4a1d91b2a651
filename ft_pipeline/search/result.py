"""The result of a search: the chosen YAML, a table of trials, what mattered, and what it cost."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline import plotting
from ft_pipeline.errors import UserError
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.search.sampling import importances
from ft_pipeline.search.space import Dimension, document_with, yaml_text
from ft_pipeline.search.sweep import Finished
from ft_pipeline.search.trials import Trial, describe_loss, is_rewarded, measure_of
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.yaml_file import read_settings
from ft_pipeline.step import references
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.spec import Spec

DOCUMENT, PICTURE = "sweep.json", "what_mattered.png"
MAX_NAME = 63
"""Letters of an experiment's name (settings/project.py)."""
MAX_PLOTTED = 3
"""Number of settings that are plotted against the loss, the most important first."""


def conclude(finished: Finished, gpu_hour_price: float | None) -> dict[str, Any]:
    """Write the chosen YAML, keep the result in the store, and return it as JSON."""
    best = best_trial(finished.trials)
    document = _document(finished, best, gpu_hour_price)
    if best is not None:
        document["chosen"] = {"trial": best.number, "values": best.values, **_write_chosen(finished, best)}
    with project_lock(finished.study.store.root).hold(lambda message: None, shared=True):
        artifact = _keep(finished, document)
    picture = artifact.path / PICTURE
    return {**document, "artifact": artifact.fingerprint, "picture": str(picture) if picture.exists() else None}


def best_trial(trials: list[Trial]) -> Trial | None:
    """Return the complete trial with the lowest held-out loss; None if no trial is complete."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.loss is not None]
    return min(complete, key=lambda trial: (trial.loss, trial.number), default=None)


def _document(finished: Finished, best: Trial | None, price: float | None) -> dict[str, Any]:
    study, trials = finished.study, finished.trials
    seconds = sum(trial.seconds for trial in trials)
    hours = seconds / 3600 * study.phases[-1].settings.gpu.count
    return {
        "experiment": study.name,
        "objective": study.objective,
        "study": study.id,
        "seed": study.seed,
        "over": [dimension.describe() for dimension in study.space],
        "ended_because": finished.ended_because,
        "trials": [{"name": trial.name(study.name), "loss": trial.loss, **trial.to_json()} for trial in trials],
        "chosen": None,
        "importances": importances(study.space, trials),
        "seconds": seconds,
        "device_hours": hours,
        "cost": None if price is None else price * hours,
    }


def _write_chosen(finished: Finished, best: Trial) -> dict[str, Any]:
    """Write the chosen values as an experiment next to the first one, and return its name and whether it is new.

    A file is never overwritten. The experiment itself is named if its own values were the best.
    """
    study = finished.study
    if best.values == study.own_values:
        return {"experiment": study.name, "new": False}
    folder = study.context.project.root / "experiments"
    document = document_with(study.document, best.values)
    wanted = ExperimentSettings.model_validate(document)
    number = 1
    while (path := folder / f"{_chosen_name(study.name, number)}.yaml").exists():
        if _is_experiment(path, wanted):
            return {"experiment": path.stem, "new": False}
        number += 1
    loss = f"{measure_of(study.objective)} on validation rows ({describe_loss(best.loss, study.objective)})"
    header = (
        "# yaml-language-server: $schema=../schemas/experiment.json\n"
        f"# Chosen by `ft sweep {study.name}`: {best.name(study.name)}, by the best {loss}.\n"
        f"# It is the best of {len(finished.trials)} trials. The comparison measures it on test rows.\n"
    )
    write_atomically(path, (header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)).encode())
    return {"experiment": path.stem, "new": True}


def _chosen_name(name: str, number: int) -> str:
    """Return `NAME-tuned`, `NAME-tuned2`, …, cut to the length that names may have."""
    ending = f"-tuned{number if number > 1 else ''}"
    return f"{name[: MAX_NAME - len(ending)]}{ending}"


def _is_experiment(path: Path, settings: ExperimentSettings) -> bool:
    """Whether a YAML has these settings. One that somebody broke has others."""
    try:
        return read_settings(path, ExperimentSettings) == settings
    except UserError:
        return False


def _keep(finished: Finished, document: dict[str, Any]) -> Artifact:
    """Store the result with its trials as inputs."""

    def write(spec: Spec, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
        (out / DOCUMENT).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
        if document["importances"]:
            (out / PICTURE).write_bytes(draw_importances(finished, document["importances"]))
        return {key: document[key] for key in ("chosen", "importances", "seconds", "cost")}

    study = finished.study
    inputs = {f"try{trial.number}": entry for trial, entry in zip(finished.trials, finished.artifacts, strict=True)}
    config = {"experiment": study.name, "study": study.id, "ended_because": finished.ended_because}
    spec = Spec("sweep", references(inputs), config, seed=study.seed)
    run_info = {"run_id": None, "sweep_of": study.name}
    return build_artifact(None, study.store, spec, build=write, run_info=run_info).artifact


def draw_importances(finished: Finished, shares: Mapping[str, float]) -> bytes:
    """Return the picture of what mattered: shares of the variance, and the loss by each setting."""
    complete = [trial for trial in finished.trials if trial.state == "complete" and trial.loss is not None]
    dimensions = {dimension.key: dimension for dimension in finished.study.space}
    draws = [lambda axes: plotting.draw_shares(axes, shares, "What mattered: share of the variance of losses")]
    unit = "1 minus the held-out reward" if is_rewarded(finished.study.objective) else "held-out loss"
    for key in list(shares)[:MAX_PLOTTED]:
        draws.append(_points(dimensions[key], complete, unit))
    return plotting.panels(draws, 6.0, 3.0)


def _points(dimension: Dimension, complete: list[Trial], unit: str) -> Callable[[Any], None]:
    """Return the drawing of the loss by one setting. The values of a list keep their order."""
    if dimension.is_range:
        values: list[Any] = [trial.values[dimension.key] for trial in complete]
    else:
        complete = sorted(complete, key=lambda trial: dimension.choices.index(trial.values[dimension.key]))
        values = [yaml_text(trial.values[dimension.key]) for trial in complete]
    losses = [trial.loss for trial in complete if trial.loss is not None]
    return lambda axes: plotting.draw_points(axes, values, losses, dimension.key, dimension.log, unit)
