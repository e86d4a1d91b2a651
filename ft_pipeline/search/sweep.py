"""A search: trials one after another until the budget is spent, each kept in the store when it has ended."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.events import EventState, StepEvent, publish
from ft_pipeline.execution.build import MAX_RETRIES, RETRY_SECONDS, build_artifact
from ft_pipeline.execution.garbage_collection import SEARCH_LOCK
from ft_pipeline.execution.run import run_up_to
from ft_pipeline.execution.workers.supervisor import WorkerError, WorkerLost
from ft_pipeline.pace import format_duration
from ft_pipeline.recorded_checks import require_passed
from ft_pipeline.search.sampling import next_values
from ft_pipeline.search.space import Value, settings_with, yaml_text
from ft_pipeline.search.study import (
    Study,
    SweepRequest,
    build_unlisted,
    new_study,
    read_request,
    run_info_of_trial,
    trial_name,
)
from ft_pipeline.search.trials import (
    KIND,
    METRICS,
    RECORD,
    State,
    Trial,
    describe_loss,
    held_out_losses,
    measure_of,
    read_metrics,
    stored_trials,
)
from ft_pipeline.step import references, spec_of_its_asset
from ft_pipeline.steps.adapter import adapter_spec
from ft_pipeline.steps.shared.phases import Phase
from ft_pipeline.steps.training_data import assets_not_read, training_data_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.atomic_files import write_atomically
from ft_pipeline.store.locks import FileLock, project_lock
from ft_pipeline.store.spec import NAME_DIGITS, Spec

WRITE_SECONDS = 2.0
"""Seconds between two writes: at most this much is lost by a kill."""


class TrialClock:
    """Seconds of each trial in all its attempts, in a file that survives a kill: a budget counts over restarts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds.json"

    def seconds(self, number: int) -> float:
        """Return the seconds of a trial so far; 0.0 if it has none."""
        return self._read().get(str(number), 0.0)

    @contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Add the time of the block to a trial, also if the process is killed in it."""
        before, started, ended = self.seconds(number), time.monotonic(), threading.Event()

        def write() -> None:
            seconds = before + time.monotonic() - started
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._read() | {str(number): seconds}).encode())

        def write_often() -> None:
            while not ended.wait(WRITE_SECONDS):
                write()

        thread = threading.Thread(target=write_often, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            write()

    def _read(self) -> dict[str, float]:
        try:
            seconds: dict[str, float] = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        return seconds


PREPARED = "memory_estimate"
"""The asset that must be there before trials: with it come tables, tokens and the base model."""
MAX_FAILURES = 3
"""Number of trials that fail one after another before the search gives up."""
HANDLING, PRUNED_FILE = "pruning", "pruned.json"
"""As in training/trainer/pruning.py, which imports torch."""


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
    document, space = read_request(request)
    is_mixed = any(dimension.key.startswith("data.weights") for dimension in space)
    without = () if is_mixed else assets_not_read(request.project, request.experiment)
    run_up_to(request.project, request.experiment, [PREPARED], without)
    try:
        with project_lock(request.project.store).hold(log, shared=True):
            return _search(new_study(request, document, space), request, log)
    except WorkerError as error:  # that of a trial is a failed trial, unless its machine was lost
        raise UserError(f"The search stopped. {first_line(error)}") from error


def _search(study: Study, request: SweepRequest, log: Callable[[str], None]) -> Finished:
    """Run the trials that are missing, while no other process runs the same search."""
    name = f"{SEARCH_LOCK}{study.id[:NAME_DIGITS]}"
    clock = TrialClock(study.store.root / "work" / KIND / study.id[:NAME_DIGITS])
    with FileLock(study.store.root / "locks" / name, "searching").hold(log):
        for dimension in study.space:
            log(dimension.describe())
        reason = _run_trials(study, request, clock, log)
        found = stored_trials(study.store, study.id).values()
    return Finished(study, [trial for trial, _ in found], [artifact for _, artifact in found], reason)


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
        log(describe_trial(trial, study.objective))
        failures = failures + 1 if trial.state == "failed" else 0
        if failures == MAX_FAILURES:
            reason = f"{failures} trials failed one after another, the last one with: {trial.message}"
            if any(entry.state == "complete" for entry in ended):
                return reason
            raise UserError(reason)


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


def describe_trial(trial: Trial, objective: str) -> str:
    """Return one line about an ended trial."""
    values = ", ".join(f"{key}={yaml_text(value)}" for key, value in trial.values.items())
    loss = "none" if trial.loss is None else describe_loss(trial.loss, objective)
    line = f"try{trial.number} {trial.state}: {values}: {measure_of(objective)} {loss}, {trial.steps} steps, "
    return f"{line}{format_duration(trial.seconds)}{f': {trial.message}' if trial.message else ''}"


def _run_trial(
    study: Study, ended: list[Trial], number: int, values: Mapping[str, Value], seed: int, clock: TrialClock
) -> Trial:
    """Train with these values, and keep the trial in the store."""
    settings = settings_with(study.document, values)
    phase = Phase(study.name, settings)
    data = require_passed(build_unlisted(study.context, study.name, training_data_spec(study.context, settings)))
    spec = spec_of_its_asset(adapter_spec(study.context, phase, data, study.base, study.start))
    finished = [list(trial.losses) for trial in ended if trial.state == "complete"]
    spec = replace(spec, handling={**spec.handling, HANDLING: finished})
    inputs = {"training_data": data, "base_model": study.base, **({"start": study.start} if study.start else {})}
    state: State = "complete"
    log_history: list[dict[str, Any]] = []
    message = ""
    with clock.running(number):
        try:
            adapter = _train(study, spec, number)
            if adapter is None:
                state, log_history = "pruned", pruned_log(study.store, spec) or []
            else:
                inputs["adapter"] = adapter
                log_history = read_metrics((adapter.path / METRICS).read_text(encoding="utf-8"))
        except WorkerLost:
            raise
        except (UserError, WorkerError) as error:
            state, message = "failed", first_line(error).partition(" Run again to resume")[0]
    steps = max((entry["step"] for entry in log_history), default=0)
    losses = held_out_losses(log_history)
    trial = Trial(number, dict(values), state, losses, steps, round(clock.seconds(number), 2), seed, message)
    _keep(study, trial, inputs, log_history)
    if state == "pruned":
        shutil.rmtree(_work_folder(study.store, spec), ignore_errors=True)  # its checkpoints
    return trial


def _train(study: Study, spec: Spec, number: int) -> Artifact | None:
    """Return the adapter; None if the search stopped its training."""
    if pruned_log(study.store, spec) is not None:
        return None
    name = trial_name(number)
    publish(StepEvent("adapter", name, "started"))
    started = time.monotonic()
    state: EventState = "failed"
    try:
        adapter = _build_where_machines_are_lost(study, spec, number)
        state = "built"
        return adapter
    except UserError:
        if pruned_log(study.store, spec) is None:
            raise
        state = "built"
        return None
    finally:
        publish(StepEvent("adapter", name, state, time.monotonic() - started))


def _build_where_machines_are_lost(study: Study, spec: Spec, number: int) -> Artifact:
    """Build the adapter. If a cluster takes its machine away, it goes on elsewhere, as often as a step of a run."""
    for _ in range(MAX_RETRIES):
        try:
            return build_unlisted(study.context, study.name, spec, number)
        except WorkerLost:
            time.sleep(RETRY_SECONDS)
    return build_unlisted(study.context, study.name, spec, number)


def _keep(study: Study, trial: Trial, inputs: dict[str, Artifact], log_history: list[dict[str, Any]]) -> Artifact:
    """Store the trial with its lineage and the log of its training."""

    def write(spec: Spec, folders: Mapping[str, Path], out: Path) -> dict[str, Any]:
        (out / RECORD).write_text(json.dumps(trial.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
        lines = [json.dumps(entry, sort_keys=True) + "\n" for entry in log_history]
        (out / METRICS).write_text("".join(lines), encoding="utf-8")
        return {"state": trial.state, "best_eval_loss": trial.loss, "steps": trial.steps, "seconds": trial.seconds}

    config = {"experiment": study.name, "study": study.id, "number": trial.number, "values": trial.values}
    spec = Spec(KIND, references(inputs), config, seed=trial.seed)
    return build_artifact(
        None, study.store, spec, build=write, run_info=run_info_of_trial(study.name, trial.number)
    ).artifact


def pruned_log(store: ArtifactStore, spec: Spec) -> list[dict[str, Any]] | None:
    """Return the log of a training that the search stopped; None if it was not stopped.

    A record of another comparison does not count: another search may stop the same training earlier or later.
    """
    try:
        record: dict[str, Any] = json.loads((_work_folder(store, spec) / PRUNED_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # a kill may leave half a record
        return None
    return record["log_history"] if record.get(HANDLING) == spec.handling[HANDLING] else None


def _work_folder(store: ArtifactStore, spec: Spec) -> Path:
    """Return the folder that survives a kill, as ArtifactStore.begin makes it."""
    return store.root / "work" / spec.kind / spec.hash[:NAME_DIGITS]
