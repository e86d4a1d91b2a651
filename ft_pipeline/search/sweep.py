"""A search: trials one after another until the budget is spent, each kept in the store when it has ended."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.defs.training_chain import (
    NOT_IN_SPEC,
    Phase,
    adapter_spec,
    experiment_phases,
    references,
    settings_for_base,
    starting_model,
    training_data_spec,
)
from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.events import EventState, StepEvent, publish
from ft_pipeline.execution.machines import device_need
from ft_pipeline.execution.pace import format_duration
from ft_pipeline.execution.recorded_checks import require_passed
from ft_pipeline.execution.run import RunRequest, load_steps, run
from ft_pipeline.execution.step import STEPS, MissingInput, SpecContext, spec_of_its_asset
from ft_pipeline.execution.workers.supervisor import WorkerError, WorkerLost
from ft_pipeline.project import Project
from ft_pipeline.search.clock import TrialClock
from ft_pipeline.search.sampling import next_values
from ft_pipeline.search.space import Dimension, Value, current_value, read_space, settings_with, yaml_text
from ft_pipeline.search.trials import KIND, METRICS, RECORD, State, Trial, held_out_losses, read_metrics, stored_trials
from ft_pipeline.settings.sweep import is_sweep_member
from ft_pipeline.store.artifacts import NAME_DIGITS, Artifact, ArtifactStore
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.locks import FileLock, project_lock
from ft_pipeline.store.provenance import user_name
from ft_pipeline.store.spec import Spec

PREPARED = "memory_estimate"
"""The asset that must be there before trials: with it come tables, tokens and the base model."""
MAX_FAILURES = 3
"""Number of trials that fail one after another before the search gives up."""
HANDLING, PRUNED_FILE = "pruning", "pruned.json"
"""As in training/trainer/pruning.py, which imports torch."""


@dataclass(frozen=True)
class SweepRequest:
    """The arguments of `ft sweep`."""

    project: Project
    experiment: str
    over: tuple[str, ...]
    budget_seconds: float | None = None
    trials: int | None = None
    seed: int = 42


@dataclass(frozen=True)
class Study:
    """What the trials of one search have in common."""

    context: SpecContext
    name: str
    document: dict[str, Any]
    """The experiment's YAML."""
    space: tuple[Dimension, ...]
    phases: list[Phase]
    base: Artifact
    start: Artifact | None
    seed: int
    id: str

    @property
    def store(self) -> ArtifactStore:
        return self.context.store

    @property
    def own_values(self) -> dict[str, Value] | None:
        """The experiment's own values; None if they are not all in the space."""
        settings = settings_for_base(self.phases[-1].settings, self.base)
        values = {dimension.key: current_value(settings, dimension.key) for dimension in self.space}
        inside = all(dimension.contains(values[dimension.key]) for dimension in self.space)
        return values if inside else None


@dataclass(frozen=True)
class Finished:
    """The trials of a search that has ended."""

    study: Study
    trials: list[Trial]
    artifacts: list[Artifact]
    ended_because: str


def run_sweep(request: SweepRequest, log: Callable[[str], None]) -> Finished:
    """Run trials until the budget is spent, or their number is reached. Ended trials of the same search are kept.

    UserError, before anything runs, for a key or value that the experiment's settings refuse.
    """
    document, space = _read_request(request)
    load_steps()
    _prepare(request)
    with project_lock(request.project.store).hold(log, shared=True):
        study = _new_study(request, document, space)
        folder = study.store.root / "work" / KIND / study.id[:NAME_DIGITS]
        lock = FileLock(study.store.root / "locks" / f"{KIND}-{study.id[:NAME_DIGITS]}", "searching")
        with lock.hold(log):
            for dimension in space:
                log(dimension.describe())
            reason = _run_trials(study, request, TrialClock(folder), log)
            found = stored_trials(study.store, study.id).values()
    return Finished(study, [trial for trial, _ in found], [artifact for _, artifact in found], reason)


def _read_request(request: SweepRequest) -> tuple[dict[str, Any], tuple[Dimension, ...]]:
    """Return the experiment's YAML and the space. UserError if the request cannot be carried out."""
    if is_sweep_member(request.experiment):
        raise UserError(f"{request.experiment!r} has no YAML file of its own. Name the experiment that it belongs to.")
    request.project.experiment(request.experiment)
    if request.budget_seconds is None and request.trials is None:
        raise UserError("A search needs an end. Add --budget 2h, --trials 12, or both.")
    path = request.project.root / "experiments" / f"{request.experiment}.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document, read_space(request.over, document)


def _prepare(request: SweepRequest) -> None:
    """Materialize what training reads, with the experiment's own values."""
    needed, to_visit = set[str](), [PREPARED]
    while to_visit:
        asset = to_visit.pop()
        needed.add(asset)
        to_visit += [name for name in STEPS[asset].deps if name not in needed]
    result = run(RunRequest(request.project, (request.experiment,), tuple(needed)))
    if not result.succeeded:
        raise UserError(f"The search cannot begin. {' '.join(result.failures)}")


def _new_study(request: SweepRequest, document: dict[str, Any], space: tuple[Dimension, ...]) -> Study:
    """Return the study. It is another one if the data, the other settings, the space or the seed change."""
    context = SpecContext(request.project, ArtifactStore(request.project.store), request.experiment)
    phases = experiment_phases(context)
    while True:
        try:
            base, start = starting_model(context, phases)
            break
        except MissingInput as missing:
            _build(context, request.experiment, missing.spec)
    settings = settings_for_base(phases[-1].settings, base).model_dump(mode="json", exclude=NOT_IN_SPEC)
    for dimension in space:
        section, _, last = dimension.key.rpartition(".")
        part = settings
        for name in filter(None, section.split(".")):
            part = part[name]
        part.pop(last, None)
    identity = {
        "settings": {key: value for key, value in settings.items() if key not in ("description", "gpu", "merge")},
        "space": [dimension.to_json() for dimension in space],
        "seed": request.seed,
        "base": base.fingerprint,
        "start": start.fingerprint if start else None,
        "data": context.artifact("training_data").inputs,
    }
    study_id = sha256_of_json(identity)
    return Study(context, request.experiment, document, space, phases, base, start, request.seed, study_id)


def _run_trials(study: Study, request: SweepRequest, clock: TrialClock, log: Callable[[str], None]) -> str:
    """Run the trials that are missing. Return why there are no more."""
    failures = 0
    while True:
        ended = [trial for trial, _ in stored_trials(study.store, study.id).values()]
        number = max((trial.number for trial in ended), default=0) + 1
        if reason := reason_to_end(request, ended, clock.seconds(number)):
            return reason
        seed = study.seed + number
        values = next_values(study.space, ended, seed, study.own_values)
        if values is None:
            return "every combination was tried"
        trial = _run_trial(study, ended, number, values, seed, clock)
        log(describe_trial(trial))
        failures = failures + 1 if trial.state == "failed" else 0
        if failures == MAX_FAILURES:
            raise UserError(f"{failures} trials failed one after another, the last one with: {trial.message}")


def reason_to_end(request: SweepRequest, ended: list[Trial], begun_seconds: float) -> str | None:
    """Return why no trial is started; None to start one.

    begun_seconds: what an interrupted trial took so far. It is finished, unless the budget is spent.
    """
    if request.trials is not None and len(ended) >= request.trials:
        return f"{len(ended)} trials have ended"
    complete = [trial.seconds for trial in ended if trial.state == "complete"]
    if request.budget_seconds is None or not ended:
        return None
    spent = sum(trial.seconds for trial in ended) + begun_seconds
    expected = 0.0 if begun_seconds or not complete else sum(complete) / len(complete)
    if spent + expected >= request.budget_seconds:
        budget = format_duration(request.budget_seconds)
        return f"{format_duration(spent)} of {budget} are spent, and a trial takes {format_duration(expected)}"
    return None


def describe_trial(trial: Trial) -> str:
    """Return one line about an ended trial."""
    values = ", ".join(f"{key}={yaml_text(value)}" for key, value in trial.values.items())
    loss = "no held-out loss" if trial.loss is None else f"held-out loss {trial.loss:.4f}"
    return f"try{trial.number} {trial.state}: {values}: {loss}, {trial.steps} steps, {format_duration(trial.seconds)}"


def _run_trial(
    study: Study, ended: list[Trial], number: int, values: Mapping[str, Value], seed: int, clock: TrialClock
) -> Trial:
    """Train with these values, and keep the trial in the store."""
    settings = settings_with(study.document, values)
    phase = Phase(study.name, settings)
    data = require_passed(_build(study.context, study.name, training_data_spec(study.context, settings)))
    spec = spec_of_its_asset(adapter_spec(study.context, phase, data, study.base, study.start))
    finished = [list(trial.losses) for trial in ended if trial.state == "complete"]
    spec = replace(spec, handling={**spec.handling, HANDLING: finished})
    inputs, log_history, message = {"training_data": data, "base_model": study.base}, [], ""
    state: State = "complete"
    with clock.running(number):
        try:
            adapter = _train(study, spec, number)
            if adapter is None:
                state, log_history = "pruned", _pruned_log(study.store, spec)
            else:
                inputs["adapter"] = adapter
                log_history = read_metrics((adapter.path / METRICS).read_text(encoding="utf-8"))
        except WorkerLost:
            raise
        except (UserError, WorkerError) as error:
            state, message = "failed", first_line(error)
    steps = max((entry["step"] for entry in log_history), default=0)
    losses = held_out_losses(log_history)
    trial = Trial(number, dict(values), state, losses, steps, round(clock.seconds(number), 2), seed, message)
    _keep(study, trial, inputs, log_history)
    if state == "pruned":
        shutil.rmtree(_work_folder(study.store, spec), ignore_errors=True)  # its checkpoints
    return trial


def _train(study: Study, spec: Spec, number: int) -> Artifact | None:
    """Return the adapter; None if the search stopped its training."""
    if _pruned_file(study.store, spec).exists():
        return None
    publish(StepEvent("adapter", None, "started"))
    started = time.monotonic()
    state: EventState = "failed"
    try:
        adapter = _build(study.context, study.name, spec, trial=number)
        state = "built"
        return adapter
    except UserError:
        if not _pruned_file(study.store, spec).exists():
            raise
        state = "built"
        return None
    finally:
        publish(StepEvent("adapter", None, state, time.monotonic() - started))


def _keep(study: Study, trial: Trial, inputs: dict[str, Artifact], log_history: list[dict[str, Any]]) -> Artifact:
    """Store the trial with its lineage and the log of its training."""

    def write(spec: Spec, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
        (out / RECORD).write_text(json.dumps(trial.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
        lines = [json.dumps(entry, sort_keys=True) + "\n" for entry in log_history]
        (out / METRICS).write_text("".join(lines), encoding="utf-8")
        return {"state": trial.state, "best_eval_loss": trial.loss, "steps": trial.steps, "seconds": trial.seconds}

    config = {"experiment": study.name, "study": study.id, "number": trial.number, "values": trial.values}
    spec = Spec(KIND, references(inputs), config, seed=trial.seed)
    return build_artifact(None, study.store, spec, build=write, run_info=_run_info(study.name, trial.number)).artifact


def _build(context: SpecContext, experiment: str, spec: Spec, trial: int | None = None) -> Artifact:
    """Find or build an artifact that no asset of the graph has."""
    spec = spec_of_its_asset(spec)
    gpu = STEPS[spec.kind].gpu(context.project)
    device = device_need(context.project, experiment, spec.kind) if gpu else False
    return build_artifact(None, context.store, spec, device=device, run_info=_run_info(experiment, trial)).artifact


def _run_info(experiment: str, trial: int | None) -> dict[str, Any]:
    """Return what a manifest says about who built it."""
    return {"run_id": None, "started_by": f"cli {user_name()}", "sweep_of": experiment, "trial": trial}


def _pruned_log(store: ArtifactStore, spec: Spec) -> list[dict[str, Any]]:
    """Return the log of a training that the search stopped."""
    log: list[dict[str, Any]] = json.loads(_pruned_file(store, spec).read_text(encoding="utf-8"))["log_history"]
    return log


def _pruned_file(store: ArtifactStore, spec: Spec) -> Path:
    return _work_folder(store, spec) / PRUNED_FILE


def _work_folder(store: ArtifactStore, spec: Spec) -> Path:
    """Return the folder that survives a kill, as ArtifactStore.begin makes it."""
    return store.root / "work" / spec.kind / spec.hash[:NAME_DIGITS]
