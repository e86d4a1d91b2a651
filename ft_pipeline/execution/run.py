"""`ft run`: materializes the stale part of the graph, with the project's Dagster instance.

The heavy work of the steps runs in worker processes. One process for the run itself saves the time that an executor
spends on starting a process per step. Experiments that train side by side have a process each.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

import dagster as dg

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import comparison_of
from ft_pipeline.errors import UserError
from ft_pipeline.events import StepEvent, listening
from ft_pipeline.execution.dagster_names import STARTED_BY, asset_of_step, project_tag
from ft_pipeline.execution.device_pool import set_default_limit
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.instance import open_instance
from ft_pipeline.execution.interrupts import noting_interrupts
from ft_pipeline.execution.local_runs import NO_CONSOLE_LOG, execute_everything
from ft_pipeline.execution.orphaned_runs import end_orphaned_runs
from ft_pipeline.execution.partitions import add_partitions
from ft_pipeline.execution.planning import PlannedStep, plan, steps_in_order
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.execution.run_batches import Batch, Batches, BatchResult, make_batches, without_dependents
from ft_pipeline.execution.run_overview import root_message
from ft_pipeline.execution.run_process import RunProcesses
from ft_pipeline.execution.step_run import FORCE, tags_of
from ft_pipeline.execution.workers.device_leases import device_slots
from ft_pipeline.execution.workers.launchers import check_environment
from ft_pipeline.models.base_model import EMBEDDED, find_embedded
from ft_pipeline.project import Project
from ft_pipeline.sources.local_folder import has_files
from ft_pipeline.step import STEPS, Asked, used_steps
from ft_pipeline.store.asset_pointers import current_document
from ft_pipeline.store.locks import FileLock
from ft_pipeline.store.provenance import user_name

RELEASE = ("decision", "recommendation", "champion", "model_card", "report")
"""The assets that follow from a decision about the champion."""


@dataclass(frozen=True)
class RunRequest:
    """The arguments of `ft run`."""

    project: Project
    experiments: tuple[str, ...] = ()
    """Empty: all experiments whose YAML is valid."""
    select: tuple[str, ...] = ()
    """Assets by name; empty: all."""
    force: bool = False
    asked: Asked = field(default_factory=dict)
    """Of `experiments`, but not of their sweep members."""

    def asked_of(self, experiment: str | None) -> Asked:
        """Return what is asked of the steps of an experiment."""
        return self.asked if experiment in self.experiments else {}


@dataclass(frozen=True)
class RunResult:
    """The result of `ft run`."""

    steps: list[StepEvent]
    """How each step ended that was run."""
    failures: list[str]
    """What failed, as lines for the user."""
    batches: list[BatchResult]
    """The same by experiment, in the order in which they ended."""
    fresh: int
    """Number of assets that were up to date."""
    seconds: float
    comparison: Comparison | None = None
    recommendation: dict[str, Any] | None = None
    champion: dict[str, Any] | None = None
    champion_before: dict[str, Any] | None = None
    """The champion when the run started."""

    @property
    def succeeded(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The fields of `ft run --json`."""
        return {
            "succeeded": self.succeeded,
            "seconds": round(self.seconds, 2),
            "fresh": self.fresh,
            "steps": [vars(event) for event in self.steps],
            "experiments": [result.to_json() for result in self.batches],
            "failures": self.failures,
            "champion": self.champion,
        }


def plan_run(request: RunRequest) -> list[PlannedStep]:
    """Return the plan: every step that the request selects, whether it would run, and why.

    Raises UserError for unknown names, and if project.yaml is invalid.
    """
    load_steps()
    _ = request.project.settings
    experiments = _selected_experiments(request)
    selected = _selected_assets(request)
    with open_instance() as instance:
        asked = {name: request.asked_of(name) for name in experiments}
        planned = plan(request.project, experiments, instance, asked, request.select)
    return [_force(step) if request.force else step for step in planned if step.asset in selected]


def run(request: RunRequest) -> RunResult:
    """Materialize what is not fresh. Experiments train side by side where there are several GPUs.

    A failure does not end the run: only what needs the failed step is skipped.
    Raises UserError before anything runs for unknown names, for environment variables with invalid values, and if the
    embedded model is needed and not installed.
    """
    check_environment()
    started = time.monotonic()
    champion_before = current_document(request.project.store, "champion")
    planned = plan_run(request)
    _require_embedded_model(request.project, planned)
    with open_instance() as instance:
        set_default_limit(instance)
        end_orphaned_runs(instance, request.project.store)
        add_partitions(instance, request.project.experiment_names())
        results = list(_run_batches(instance, request, make_batches(planned)))
    return RunResult(
        steps=[step for result in results for step in result.steps],
        batches=results,
        failures=[failure for result in results for failure in result.failures],
        fresh=sum(not step.runs for step in planned),
        seconds=time.monotonic() - started,
        comparison=current_comparison(request.project),
        recommendation=current_document(request.project.store, "recommendation"),
        champion=current_document(request.project.store, "champion"),
        champion_before=champion_before,
    )


def _require_embedded_model(project: Project, planned: Iterable[PlannedStep]) -> None:
    """Raise UserError if nothing can be trained because the embedded model is not installed."""
    running = [step for step in planned if step.runs]
    names = {step.experiment for step in running if step.asset == "base_model" and step.experiment is not None}
    bases = {project.experiment(name).base_model for name in names}
    teacher = project.settings.teacher
    is_teacher = teacher.endpoint is None and teacher.model == EMBEDDED  # training_data needs what a teacher answered
    is_teacher &= EMBEDDED in bases or has_files(project.raw_folder("unlabelled"))
    if bases == {EMBEDDED} or (is_teacher and any(step.asset == "teacher_answers" for step in running)):
        find_embedded()


def _run_batches(instance: dg.DagsterInstance, request: RunRequest, batches: Batches) -> Iterator[BatchResult]:
    """Run the batches, without the assets that need a failed one. Yields each result when it is known."""
    broken: set[str] = set()
    if batches.before:
        yield (shared := _run_here(instance, request, batches.before))
        broken = shared.failed_assets()
    whole = {batch.experiment: batch for batch in batches.experiments}
    possible = [without_dependents(batch, broken) for batch in batches.experiments]
    failed: list[str] = []
    for result in _run_experiments(instance, request, [batch for batch in possible if batch.assets]):
        failed += [result.batch.experiment or ""] if result.failures else []
        yield replace(result, batch=whole.pop(result.batch.experiment))
    for batch in whole.values():
        failed.append(batch.experiment or "")
        yield BatchResult(batch, [], [], note=f"needs what failed: {', '.join(sorted(broken))}")
    if batches.after:
        yield _compare(instance, request, batches, broken, failed)


def _compare(
    instance: dg.DagsterInstance, request: RunRequest, batches: Batches, broken: set[str], failed: Sequence[str]
) -> BatchResult:
    """Run the last batch with the experiments that did not fail, if there are any."""
    assert batches.after
    if batches.experiments and len(failed) == len(batches.experiments):
        return BatchResult(batches.after, [], [], note="every experiment failed, so nothing is new to compare")
    result = _run_here(instance, request, without_dependents(batches.after, broken))
    note = f"without new results of {', '.join(sorted(failed))}" if failed else ""
    return replace(result, batch=batches.after, note=note)


def _run_experiments(
    instance: dg.DagsterInstance, request: RunRequest, batches: Sequence[Batch]
) -> Iterator[BatchResult]:
    """Run as many batches at once as there are devices: one in this process, several in child processes."""
    at_once = min(len(batches), device_slots())
    if at_once < 2:
        yield from (_run_here(instance, request, batch) for batch in batches)
        return
    processes = RunProcesses()
    with ThreadPoolExecutor(at_once) as threads:
        futures = [threads.submit(_run_in_child, processes, request, batch) for batch in batches]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


def _run_here(instance: dg.DagsterInstance, request: RunRequest, batch: Batch) -> BatchResult:
    started, steps = time.monotonic(), list[StepEvent]()
    with listening(StepEvent, steps.append):
        failures = _materialize(instance, request, batch.experiment, batch.assets)
    return BatchResult(batch, [step for step in steps if step.ended], failures, time.monotonic() - started)


def _run_in_child(processes: RunProcesses, request: RunRequest, batch: Batch) -> BatchResult:
    started, steps = time.monotonic(), list[StepEvent]()

    def keep(event: StepEvent) -> None:
        if event.ended and event.experiment == batch.experiment:
            steps.append(event)

    order = {
        "experiment": batch.experiment,
        "assets": batch.assets,
        "force": request.force,
        "asked": request.asked_of(batch.experiment),
    }
    with listening(StepEvent, keep):
        failures = processes.run(order)
    return BatchResult(batch, steps, failures, time.monotonic() - started)


def run_order(order: Mapping[str, Any]) -> list[str]:
    """Run one experiment in this child process (run_process.py). Returns what failed, as lines for the user."""
    load_steps()
    request = RunRequest(Project.find(), (order["experiment"],), force=order["force"], asked=order["asked"])
    with open_instance() as instance:
        return _materialize(instance, request, order["experiment"], order["assets"])


def materialize_release(project: Project) -> list[str]:
    """Materialize `champion`, its card and the report, so that the UI shows a user's decision.

    One process at a time, so that the last one sees the decisions of all others. Returns what failed, as lines for the
    user.
    """
    load_steps()
    lock = FileLock(project.store / "locks" / "release", "materializing the champion")
    with lock.hold(lambda message: None), open_instance() as instance:
        return _materialize(instance, RunRequest(project), None, RELEASE)


def materialize_alone(asset: dg.AssetsDefinition) -> list[str]:
    """Materialize an asset that is not a step, so that the UI shows it. Returns what failed, as lines for the user."""
    with open_instance() as instance:
        result = dg.materialize(
            [asset],
            resources=RESOURCES,
            instance=instance,
            raise_on_error=False,
            run_config=NO_CONSOLE_LOG,
            tags={**project_tag(), STARTED_BY: f"cli {user_name()}"},
        )
    return [] if result.success else [f"{_describe_crash(result)} See the full error in the UI (`ft ui`)."]


def run_up_to(project: Project, experiment: str, assets: Iterable[str], without: Collection[str] = ()) -> None:
    """Materialize assets of an experiment, with all that they need. UserError if one of them fails.

    without: assets that are left out, with what only they need.
    """
    load_steps()
    left_out = (STEPS.keys() - used_steps(project)) | set(without)
    needed, to_visit = set[str](), list(assets)
    while to_visit:
        asset = to_visit.pop()
        needed.add(asset)
        to_visit += [name for name in STEPS[asset].deps if name not in needed and name not in left_out]
    result = run(RunRequest(project, (experiment,), tuple(needed)))
    if not result.succeeded:
        raise UserError(f"What comes before the training failed. {' '.join(result.failures)}")


def current_comparison(project: Project) -> Comparison | None:
    """The current comparison; None if there is none."""
    document = current_document(project.store, "comparison")
    return comparison_of(document) if document else None


def _selected_experiments(request: RunRequest) -> list[str]:
    """The requested experiments with their sweep members, by default all with a valid YAML.

    Raises UserError if a requested experiment is unknown or its YAML is broken, or if there is no valid experiment.
    """
    if request.experiments:
        for name in request.experiments:
            request.project.experiment(name)
        return list(
            dict.fromkeys(member for name in request.experiments for member in request.project.with_sweep_members(name))
        )
    return _valid_experiments(request.project)


def _valid_experiments(project: Project) -> list[str]:
    valid, broken = [], []
    for name in project.experiment_names():
        try:
            project.experiment(name)
            valid.append(name)
        except UserError as error:
            broken.append(error)
    if not valid and broken:
        others = f" ({len(broken) - 1} more: `ft experiments`)" if broken[1:] else ""
        raise UserError(f"No experiment can run: {broken[0]}{others}")
    if not valid:
        raise UserError("This project has no experiment. Write experiments/NAME.yaml.")
    return valid


def _selected_assets(request: RunRequest) -> set[str]:
    unknown = [name for name in request.select if name not in STEPS]
    if unknown:
        raise UserError(
            f"There is no asset {unknown[0]!r}. Choose one of {', '.join(step.name for step in steps_in_order())}."
        )
    return set(request.select or used_steps(request.project))


def _force(planned: PlannedStep) -> PlannedStep:
    """The step, marked to run even if it is fresh."""
    return replace(planned, state="stale", reason="--force") if planned.state == "fresh" else planned


def _materialize(
    instance: dg.DagsterInstance, request: RunRequest, experiment: str | None, assets: Sequence[str]
) -> list[str]:
    """Run `assets` in one Dagster run. Returns what failed, as lines for the user. KeyboardInterrupt after Ctrl-C."""
    failures: list[str] = []

    def note_failure(event: StepEvent) -> None:
        if event.state in {"failed", "check failed"}:
            failures.append(f"{event.asset}: {event.message}")

    tags = {**({FORCE: "true"} if request.force else {}), **tags_of(request.asked_of(experiment))}
    with noting_interrupts(), listening(StepEvent, note_failure):
        result = execute_everything(instance, request.project, assets, experiment, tags)
    if not result.success and not failures:
        failures = [f"{_describe_crash(result)} See the full error in the UI (`ft ui`), run {result.run_id}."]
    return failures


def _describe_crash(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> str:
    """The step and the last line of an error that is not the user's."""
    for event in result.filter_events(lambda candidate: candidate.is_step_failure):
        if message := root_message(event.step_failure_data.error):
            return f"{asset_of_step(event.step_key or '')}: {message.splitlines()[-1]}."
    return "The run failed."
