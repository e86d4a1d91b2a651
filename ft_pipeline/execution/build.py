"""Finds the artifact of a spec in the store or builds it. A build resumes where an earlier attempt was interrupted."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.events import Progress, StepEvent, publish
from ft_pipeline.execution.dagster_names import asset_name, terminal_user
from ft_pipeline.execution.unfinished import UnfinishedAttempts
from ft_pipeline.execution.wait_in_the_ui import DeviceWait
from ft_pipeline.execution.workers.device_leases import DeviceNeed, Lease, cpu_lease, device_locks, lease_devices
from ft_pipeline.execution.workers.launchers import Launcher, check_environment, launcher_for
from ft_pipeline.execution.workers.stall_watch import stall_seconds
from ft_pipeline.execution.workers.supervisor import WorkerError, WorkerJob, WorkerLost, WorkerResult, run_worker
from ft_pipeline.models.base_model import is_from_hub
from ft_pipeline.pace import Throttle
from ft_pipeline.store.artifacts import Artifact, ArtifactStore, Draft
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.spec import Spec

MIN_OBSERVATION_INTERVAL = 30.0
"""Seconds between two progress events in Dagster's log. Each is a row of its database, which keeps it."""
MIN_LINE_INTERVAL = 5.0
"""Seconds between two lines of progress in the log file of the run."""
MAX_RETRIES = 2
"""How often a step runs again whose machine was lost. It resumes from its checkpoint."""
RETRY_SECONDS = 30
"""Seconds before that."""
HUB_TOKENS = ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN")
TRACKER_VARIABLES = {"wandb": "WANDB_*", "mlflow": "MLFLOW_*"}
"""Tracker in `training.report_to` → its variables."""
logger = logging.getLogger(__name__)

BuildFunction = Callable[[Spec, Mapping[str, Path], Path], dict[str, Any]]
"""(spec, input folders, output folder) → summary, for a step that is light enough to run in the step's own process."""


@dataclass(frozen=True)
class BuildResult:
    """An artifact, and whether it was built or reused."""

    artifact: Artifact
    reused: bool
    seconds: float


def build_artifact(
    context: dg.AssetExecutionContext | None,
    store: ArtifactStore,
    spec: Spec,
    *,
    device: bool | DeviceNeed = False,
    force: bool = False,
    build: BuildFunction | None = None,
    run_info: Mapping[str, Any] | None = None,
    launcher: Launcher | None = None,
    label: str | None = None,
) -> BuildResult:
    """Find or build the artifact of `spec`.

    device: whether the job leases a device: the GPUs that it needs (by default one), or the CPU slot without a GPU.
    force: rebuild the artifact from the start, even if the store has it.
    build: builds the artifact in this process; None starts a worker process for the kind (worker.WORKERS).
    label: what listeners and errors call the job; by default its asset and experiment.
    run_info: who started the build, for the manifest; by default what Dagster records about the run.

    Raises UserError for an error that the user can fix, and WorkerError if a worker crashed or was killed. With a
    context, both become dg.Failure, which is retried only if the worker was killed and the asset has a retry policy.
    WorkerLost, if a cluster took the worker's machine away, becomes a retry. An interrupted build leaves no process
    running and keeps its checkpoints.
    """
    started = time.monotonic()
    with _errors_as_failures(context):
        check_environment()
        need = _device_need(device)
        launcher = launcher or launcher_for(spec.kind, need)
        builder = _ArtifactBuilder(context, store, spec, dict(run_info or run_info_of(context)), launcher, label)
        artifact, reused = builder.find_or_build(need, force, build)
    return BuildResult(artifact, reused, time.monotonic() - started)


class _ArtifactBuilder:
    """Finds or builds one artifact, and reports what it does."""

    def __init__(
        self,
        context: dg.AssetExecutionContext | None,
        store: ArtifactStore,
        spec: Spec,
        run_info: dict[str, Any],
        launcher: Launcher,
        label: str | None = None,
    ) -> None:
        self.context = context
        self.store = store
        self.spec = spec
        self.run_info = run_info
        self.launcher = launcher
        self.label = label or _label(context, spec.kind)
        self.throttle = Throttle(MIN_OBSERVATION_INTERVAL)
        self.line_throttle = Throttle(MIN_LINE_INTERVAL)

    def find_or_build(self, need: DeviceNeed | None, force: bool, build: BuildFunction | None) -> tuple[Artifact, bool]:
        if not force and (artifact := self.store.find(self.spec, self.log)):
            return artifact, True
        with self.store.building(self.spec, self.log):
            # Another run may have built it while this one waited for the lock.
            if not force and (artifact := self.store.find(self.spec, self.log)):
                return artifact, True
            return self._build(need, force, build), False

    def _build(self, need: DeviceNeed | None, force: bool, build: BuildFunction | None) -> Artifact:
        inputs = {name: self.store.require(*reference, self.log).path for name, reference in self.spec.inputs.items()}
        with contextlib.ExitStack() as leased:
            lease = leased.enter_context(self._lease_devices(need))
            attempts = UnfinishedAttempts(self.store.root, self.spec, self.run_info.get("experiment"))
            draft = self.store.begin(self.spec, from_scratch=force)  # not before, because a wait can be killed
            started = time.monotonic()
            try:
                with translate_write_errors():
                    summary, run_facts = self._make(draft, inputs, lease, build)
                leased.close()
                artifact = self.store.commit(draft, summary, self.run_info | run_facts | attempts.facts())
            except BaseException:
                attempts.add(time.monotonic() - started, len(lease.gpu_names))
                self.store.discard(draft)
                raise
            attempts.forget(artifact)
            return artifact

    def _make(
        self, draft: Draft, inputs: Mapping[str, Path], lease: Lease, build: BuildFunction | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the summary, and what the manifest says about the run."""
        started = time.monotonic()
        run_facts: dict[str, Any] = {"device": lease.device, "gpus": list(lease.gpu_names)}
        if build:
            summary = build(self.spec, inputs, draft.out)
        else:
            result = self._run_worker(draft, inputs, lease)
            summary = result.summary
            run_facts |= {"worker_seconds": result.seconds, "peak_rss_bytes": result.peak_rss_bytes}
        return summary, run_facts | {"seconds": time.monotonic() - started}

    def _run_worker(self, draft: Draft, inputs: Mapping[str, Path], lease: Lease) -> WorkerResult:
        if plan := self.spec.handling.get("plan"):
            self.log(f"sends: {plan}")
        job = WorkerJob(
            kind=self.spec.kind,
            label=self.label,
            config=self.spec.config,
            inputs=inputs,
            folder=draft.folder,
            out=draft.out,
            work=draft.work,
            device=lease.device,
            seed=self.spec.seed,
            handling=self.spec.handling,
            shared=self.store.root / "teachers",
            env={**lease.env, **hub_environment(self.spec)},
            variables=variables_of_job(self.spec),
            stall_seconds=stall_seconds(_allowed_wait(self.spec)),
        )
        return run_worker(self.context, job, self.launcher, self.report_progress, self.log)

    @contextlib.contextmanager
    def _lease_devices(self, need: DeviceNeed | None) -> Iterator[Lease]:
        if need is None or self.launcher.lease is not None:
            yield self.launcher.lease or cpu_lease()
            return
        folder = device_locks(self.store.root)
        if self.context is None:
            with lease_devices(need, folder, self.log, self.label) as lease:
                yield lease
            return
        wait = DeviceWait(self.context, _partition(self.context))
        job = f"{self.label} of run {self.context.run.run_id[:8]}"
        with lease_devices(need, folder, self.log, job, log_wait=wait.show) as lease:
            wait.end()
            yield lease

    def log(self, message: str) -> None:
        """Log a line, and send it to listeners: what the step waits for, what it skips, why it uses no GPU."""
        if self.context:
            self.context.log.info(message)
            asset = asset_name(self.context.asset_key)
            publish(StepEvent(asset, _partition(self.context), "notes", message=message))
        else:
            logger.info("%s: %s", self.label, message)

    def report_progress(self, progress: Progress) -> None:
        """Send every report to the listeners of this process, and some to the run's log file and Dagster's event log.

        In the event log they are a line and the points of plots.
        """
        publish(progress)
        is_last = progress.step >= progress.total
        if self.context and (self.throttle.ready() or is_last):
            self.context.log.info(progress.line())
            self.context.log_event(_observation(self.context, progress))
        elif self.context and terminal_user(self.context.run) is None and self.line_throttle.ready():
            sys.stderr.write(f"{progress.line()}\n")  # Dagster captures it; `ft run` shows the reports itself


def hub_environment(spec: Spec) -> dict[str, str]:
    """Return the variables that keep a worker off the model hub.

    Empty for a worker that downloads what the settings name: a base model, or the data of an lm-eval task.
    """
    if spec.kind == "base_model":
        downloads = is_from_hub(spec.config, spec.inputs)
    elif spec.kind in ("prompt_baseline", "scores"):
        downloads = bool(spec.config.get("evaluation", {}).get("tasks"))
    else:
        downloads = False
    return {} if downloads else {"HF_HUB_OFFLINE": "1"}


def variables_of_job(spec: Spec) -> tuple[str, ...]:
    """Return the names or patterns of variables that the settings of a job name."""
    key = spec.handling.get("endpoint", {}).get("api_key_env")
    names = [key] if key else []
    if spec.kind == "base_model" and is_from_hub(spec.config, spec.inputs):
        names += HUB_TOKENS
    names += [TRACKER_VARIABLES[name] for name in spec.handling.get("report_to", ()) if name in TRACKER_VARIABLES]
    return tuple(dict.fromkeys(names))


def _allowed_wait(spec: Spec) -> float:
    """Return the seconds for which the settings allow a job to wait without a report: for the server of an endpoint."""
    endpoint = spec.handling.get("endpoint", {})
    return float(endpoint.get("patience_seconds", 0) + endpoint.get("timeout_seconds", 0))


def _observation(context: dg.AssetExecutionContext, progress: Progress) -> dg.AssetObservation:
    metadata: dict[str, Any] = {"step": progress.step, "total_steps": progress.total, **progress.values}
    if progress.eta is not None:
        metadata["eta_seconds"] = round(progress.eta, 1)
    return dg.AssetObservation(context.asset_key, partition=_partition(context), metadata=metadata)


def _partition(context: dg.AssetExecutionContext) -> str | None:
    """The experiment; None for an asset that all experiments share, even in a run for one experiment."""
    is_per_experiment = context.assets_def.partitions_def is not None and context.has_partition_key
    return context.partition_key if is_per_experiment else None


def _label(context: dg.AssetExecutionContext | None, kind: str) -> str:
    if context is None:
        return kind
    partition = _partition(context)
    asset = asset_name(context.asset_key)
    return f"{asset} [{partition}]" if partition else asset


def _device_need(device: bool | DeviceNeed) -> DeviceNeed | None:
    if isinstance(device, DeviceNeed):
        return device
    return DeviceNeed() if device else None


def run_info_of(context: dg.AssetExecutionContext | None) -> dict[str, Any]:
    """Return the run's id, its asset and experiment, and who or what started it, as Dagster records them."""
    if context is None:
        return {"run_id": None, "started_by": "python"}
    return {
        "run_id": context.run.run_id,
        "started_by": _started_by(context.run),
        "asset": asset_name(context.asset_key),
        "experiment": _partition(context),
    }


def _started_by(run: dg.DagsterRun) -> str:
    """What started a run. `ft run` tags its runs, Dagster those of schedules, sensors and backfills, the UI none."""
    if user := terminal_user(run):
        return user
    for tag, prefix in (
        ("dagster/schedule_name", "schedule "),
        ("dagster/sensor_name", "sensor "),
        ("dagster/backfill", "backfill "),
    ):
        if tag in run.tags:
            return f"{prefix}{run.tags[tag]}"
    return "ui" if run.remote_job_origin else "python"


@contextlib.contextmanager
def _errors_as_failures(context: dg.AssetExecutionContext | None) -> Iterator[None]:
    """Under Dagster, raise errors as failures with one clear line and no traceback."""
    try:
        yield
    except UserError as error:
        if context is None:
            raise
        raise dg.Failure(str(error), allow_retries=False) from None
    except WorkerLost as error:
        if context is None:
            raise
        context.log.warning(str(error))
        raise retry_request() from error
    except WorkerError as error:
        if context is None:
            raise
        tail = dg.MetadataValue.md(f"```\n{error.log_tail}\n```")
        metadata: dict[str, Any] = {"exit_code": error.exit_code, "log_tail": tail}
        is_crash = error.exit_code == 1  # it would crash again; a worker that was killed can resume
        raise dg.Failure(str(error), metadata=metadata, allow_retries=not is_crash) from None


def retry_request() -> dg.RetryRequested:
    """Return the exception by which Dagster runs a step again whose machine was lost."""
    return dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=RETRY_SECONDS)
