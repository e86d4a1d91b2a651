"""Estimate how long a training takes, from earlier trainings in the store or, without any, from an assumption.

    seconds = tokens · work per token / speed
    work per token = k · parameters + 6 · layers · width · tokens per row

Parameters are those that each token is multiplied with. k is 6 if all weights are trained and 4 for adapters, whose
frozen weights need no gradients. The last term is attention. The speed of an earlier training is its own tokens · work
per token / seconds, from loading the model to saving the weights. So evaluations and checkpoints are part of it.

A GPU that was not measured is assumed to reach a share of its peak, and to wait at the start and in each step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.memory.layer_sizes import ModelShape, read_shape
from ft_pipeline.training.memory.rank_share import RankCount

UNCERTAIN = 1.25
"""Factor of the range around a single measurement: another technique, or another run of the same one."""
CPU_SPEED = (2e10, 4e11)
"""Assumed speed of a CPU that was not measured, in operations per second."""
GPU_SHARE = (0.1, 0.4)
"""Assumed share of its peak that a GPU reaches, which was not measured."""

GPU_STEP_SECONDS = (0.05, 0.3)
"""Assumed seconds of a step in which a GPU does not compute."""
GPU_START_SECONDS = (10.0, 60.0)
"""Assumed seconds until the first step."""


@dataclass(frozen=True)
class CommonGpu:
    """A GPU that can be rented. Prices are assumptions: look yours up."""

    name: str
    memory_gb: float
    peak: float
    """Dense 16-bit operations per second, from the data sheet."""
    hour: tuple[float, float]
    """Assumed price of an hour in US dollars."""


COMMON_GPUS = (
    CommonGpu("T4", 16, 65e12, (0.2, 0.6)),
    CommonGpu("L4", 24, 121e12, (0.5, 1.0)),
    CommonGpu("RTX 4090", 24, 165e12, (0.3, 0.8)),
    CommonGpu("A100 80 GB", 80, 312e12, (1.2, 4.0)),
    CommonGpu("H100", 80, 989e12, (2.0, 7.0)),
)


@dataclass(frozen=True)
class Work:
    """What a training has to compute."""

    tokens: float
    per_token: float
    """Operations."""
    steps: int

    @property
    def operations(self) -> float:
        return self.tokens * self.per_token


@dataclass(frozen=True)
class Measured:
    """An earlier training."""

    device: str
    technique: str
    objective: str
    speed: float
    """Operations per second."""
    begun: str
    fingerprint: str


@dataclass(frozen=True)
class Range:
    """Estimated seconds."""

    low: float
    high: float
    basis: str

    def off_by(self, seconds: float) -> float:
        """Return the measured time divided by the middle of the range (the geometric mean)."""
        return seconds / (self.low * self.high) ** 0.5


def work_of(settings: ExperimentSettings, config: dict[str, Any], audit: dict[str, Any], steps: int | None) -> Work:
    """Return the work of a training on audited rows. steps: those that were run; None: all that the settings plan."""
    training = settings.training
    per_row = audit["tokens"] / max(1, sum(audit["rows"].values()))
    rows = sum(count for name, count in audit["rows"].items() if name.endswith("/train"))
    batch = rows_per_batch(settings, per_row) * training.gradient_accumulation_steps
    per_epoch = max(1, -(-rows // batch))
    steps = steps or (training.max_steps if training.max_steps > 0 else per_epoch * training.num_train_epochs)
    epochs, rest = divmod(steps, per_epoch)
    seen = epochs * rows + min(rest * batch, rows)
    return Work(seen * per_row, _work_per_token(read_shape(config), settings.technique, per_row), steps)


def rows_per_batch(settings: ExperimentSettings, tokens_per_row: float) -> int:
    """Return how many rows of average length are in a batch."""
    training = settings.training
    if training.tokens_per_batch is None:
        return training.per_device_train_batch_size
    return max(1, int(training.tokens_per_batch / tokens_per_row))


def _work_per_token(shape: ModelShape, technique: str, per_row: float) -> float:
    experts = shape.layers * shape.active_experts * 3 * shape.hidden * shape.expert_width
    multiplied = shape.matrix_params + shape.vocabulary * shape.hidden + experts
    return (6 if technique == "full" else 4) * multiplied + 6 * shape.layers * shape.hidden * per_row


def measured_trainings(store: ArtifactStore) -> list[Measured]:
    """Return the trainings of the store that ran without an interruption, oldest first."""
    return [found for artifact in store.all("adapter") if (found := _measure(store, artifact)) is not None]


def _measure(store: ArtifactStore, adapter: Artifact) -> Measured | None:
    data = store.open(*adapter.inputs["training_data"])
    base = store.open(*adapter.inputs["base_model"])
    if adapter.summary.get("resumed_from_step") or data is None or base is None:
        return None
    settings = ExperimentSettings.model_validate(adapter.spec["config"]["experiment"])
    work = work_of(settings, base.document("config.json"), data.summary["audit"], adapter.summary["steps"])
    speed = work.operations / adapter.summary["seconds"]
    begun, device = adapter.manifest["begun"], device_of(adapter.manifest)
    return Measured(device, settings.technique, settings.objective, speed, begun, adapter.fingerprint)


def device_of(manifest: dict[str, Any]) -> str:
    """Return the device of a training, as trainings are compared: its GPUs, or its processor and cores."""
    return device_name(manifest["run"].get("gpus") or (), manifest["hardware"])


def device_name(gpus: Sequence[str], hardware: dict[str, Any]) -> str:
    """Return `2 x NVIDIA L4`, or `AMD EPYC, 2 cores`."""
    if gpus:
        return f"{len(gpus)} x {gpus[0]}" if len(gpus) > 1 else gpus[0]
    return f"{hardware['processor']}, {hardware['cores']} cores"


def estimate(work: Work, settings: ExperimentSettings, trainings: Iterable[Measured], device: str) -> Range | None:
    """Return the seconds on a device from the trainings on it: those of the same technique and objective, else all.

    None without any.
    """
    here = [training for training in trainings if training.device == device]
    alike = [entry for entry in here if (entry.technique, entry.objective) == (settings.technique, settings.objective)]
    used = alike or here
    if not used:
        return None
    speeds = [entry.speed for entry in used]
    margin = UNCERTAIN if len(used) < 2 or not alike else 1.0
    trained = "1 training" if len(used) == 1 else f"{len(used)} trainings"
    of = "of this technique and objective" if alike else "of another technique or objective"
    low, high = work.operations / max(speeds) / margin, work.operations / min(speeds) * margin
    return Range(low, high, f"measured: {trained} {of}")


def assumed(work: Work, speeds: tuple[float, float], basis: str) -> Range:
    """Return the seconds with an assumed range of speeds."""
    return Range(work.operations / speeds[1], work.operations / speeds[0], f"assumed: {basis}")


def assumed_on_gpu(work: Work, gpu: CommonGpu) -> Range:
    """Return the seconds on a GPU that was not measured, with the time that small models wait for its driver."""
    low, high = (gpu.peak * share for share in GPU_SHARE)
    computed = assumed(work, (low, high), f"{GPU_SHARE[0]:.0%} to {GPU_SHARE[1]:.0%} of {gpu.peak / 1e12:g} TFLOP/s")
    waits = [work.steps * step + start for step, start in zip(GPU_STEP_SECONDS, GPU_START_SECONDS, strict=True)]
    return Range(computed.low + waits[0], computed.high + waits[1], computed.basis)


def hindsight(store: ArtifactStore, adapter: Artifact, trainings: Sequence[Measured]) -> dict[str, Any] | None:
    """Return how far off the estimate was that the trainings before this one gave; None if it was interrupted.

    `estimate` is null if there was no earlier training on its device.
    """
    own = next((entry for entry in trainings if entry.fingerprint == adapter.fingerprint), None)
    if own is None:
        return None
    settings = ExperimentSettings.model_validate(adapter.spec["config"]["experiment"])
    data, base = (store.require(*adapter.inputs[name]) for name in ("training_data", "base_model"))
    config, audit = base.document("config.json"), data.summary["audit"]
    work = work_of(settings, config, audit, None)
    earlier = [entry for entry in trainings if entry.begun < own.begun]
    seconds = estimate(work, settings, earlier, own.device)
    measured = adapter.summary["seconds"]
    device = "cpu" if adapter.manifest["run"].get("device") == "cpu" else "cuda"
    teacher = adapter.inputs.get("teacher")
    memory = estimate_experiment(
        settings,
        config,
        audit["lengths"]["max"],
        None,
        device,
        base.summary["params"],
        adapter.summary["computed_in"],
        RankCount(adapter.summary.get("processes", 1)),
        store.require(*teacher).document("config.json") if teacher else None,
    )
    return {
        "seconds": measured,
        "estimate": None if seconds is None else [seconds.low, seconds.high],
        "off_by": None if seconds is None else seconds.off_by(measured),
        "peak_memory_gb": adapter.summary["peak_memory_gb"],
        "memory_gb": memory["total_gb"],
        "stopped_early": adapter.summary["stopped_early"],
    }
