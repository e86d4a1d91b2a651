"""Estimate how long a step takes, from earlier steps in the store or, without any, from an assumption.

    seconds = operations / speed

The speed of an earlier step is its own operations (work.py) / its seconds. So everything that it waited for is part of
it. A device that was not measured is assumed to reach a share of its peak, to read its weights at a share of its
bandwidth for each token of a batch of answers, and to wait at the start and in each step.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.training.work import Work

ASSUMED = "assumed"
"""Begins the basis of a range for which nothing was measured."""
OF_ONE_GPU = f"{ASSUMED} for one GPU"
"""The basis of such a range if the device is several GPUs: how much faster they are than one was never measured."""
_SEVERAL_GPUS = re.compile(r"^\d+ x ")
UNCERTAIN = 1.25
"""Factor of the range around a single measurement, and around those of other steps."""
PRICED = date(2026, 11, 1)
"""When the prices below were assumed."""


@dataclass(frozen=True)
class Device:
    """A device that was not measured. All pairs are ranges."""

    name: str
    speed: tuple[float, float]
    """Operations per second."""
    bandwidth: tuple[float, float]
    """Bytes of weights per second."""
    token: tuple[float, float]
    """Seconds of a decoding step in which it does not compute."""
    step: tuple[float, float] = (0.0, 0.0)
    """Seconds of an optimizer step in which it does not compute."""
    start: tuple[float, float] = (0.0, 0.0)
    """Seconds until the first step."""
    memory_gb: float = 0
    hour: tuple[float, float] | None = None
    """Assumed price of an hour in US dollars."""


CPU = Device("CPU", speed=(2e10, 4e11), bandwidth=(5e9, 4e10), token=(0.005, 0.05), start=(5.0, 20.0))


def _gpu(name: str, memory_gb: float, peak: float, bandwidth: float, hour: tuple[float, float]) -> Device:
    """Return a GPU by its data sheet: dense 16-bit operations, and bytes of its memory, per second."""
    return Device(
        name,
        speed=(0.1 * peak, 0.4 * peak),
        bandwidth=(0.3 * bandwidth, 0.8 * bandwidth),
        token=(0.01, 0.05),
        step=(0.05, 0.3),
        start=(10.0, 60.0),
        memory_gb=memory_gb,
        hour=hour,
    )


COMMON_GPUS = (
    _gpu("T4", 16, 65e12, 320e9, (0.2, 0.6)),
    _gpu("L4", 24, 121e12, 300e9, (0.5, 1.0)),
    _gpu("RTX 4090", 24, 165e12, 1008e9, (0.3, 0.8)),
    _gpu("A100 80 GB", 80, 312e12, 2039e9, (1.2, 4.0)),
    _gpu("H100", 80, 989e12, 3350e9, (2.0, 7.0)),
)
"""GPUs that can be rented. Prices are assumptions: look yours up."""


@dataclass(frozen=True)
class Measured:
    """An earlier step."""

    kind: str
    """Of its artifact."""
    device: str
    technique: str | None
    objective: str | None
    speed: float
    """Operations per second."""
    seconds: float
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


def measured_step(
    artifact: Artifact, work: Work, settings: ExperimentSettings | None, seconds: float
) -> Measured | None:
    """Return a step of the store as a measurement; None if it has no work, or no time."""
    if not work.operations or not seconds:
        return None
    return Measured(
        artifact.kind,
        device_of(artifact.manifest),
        settings.technique if settings else None,
        settings.objective if settings else None,
        work.operations / seconds,
        seconds,
        artifact.manifest["begun"],
        artifact.fingerprint,
    )


def device_of(manifest: Mapping[str, Any]) -> str:
    """Return the device of a step, as steps are compared: its GPUs, or its processor and cores."""
    return device_name(manifest["run"].get("gpus") or (), manifest["hardware"])


def device_name(gpus: Sequence[str], hardware: Mapping[str, Any]) -> str:
    """Return `2 x NVIDIA L4`, or `AMD EPYC, 2 cores`."""
    if gpus:
        return f"{len(gpus)} x {gpus[0]}" if len(gpus) > 1 else gpus[0]
    return f"{hardware['processor']}, {hardware['cores']} cores"


def one_of(device: str) -> str:
    """Return the name of one GPU of a device; another device as it is."""
    return _SEVERAL_GPUS.sub("", device)


def unmeasured_device(name: str) -> Device | None:
    """Return what is assumed of a device; None for a GPU that is not among the common ones."""
    if name.endswith(" cores"):
        return CPU
    return next((gpu for gpu in COMMON_GPUS if gpu.name.removesuffix(" 80 GB") in name), None)


def estimate(
    work: Work, kind: str, settings: ExperimentSettings, measured: Iterable[Measured], device: str
) -> Range | None:
    """Return the seconds of a step on a device.

    From earlier steps of its kind with the same technique and objective on this device; else from trainings on it, with
    an assumption about decoding; else from assumptions, which are for one GPU if the device is several. None for a
    device of which nothing is known.
    """
    here = [entry for entry in measured if entry.device == device]
    alike = [entry for entry in here if entry.kind == kind and _is_alike(entry, settings)]
    if alike:
        margin = UNCERTAIN if len(alike) == 1 else 1.0
        return _from_speeds(work, alike, margin, f"measured: {len(alike)} alike")
    trainings = [entry for entry in here if entry.kind == "adapter"]
    known = unmeasured_device(device)
    if trainings and (known or not work.decoding_steps):
        computed = _from_speeds(work, trainings, UNCERTAIN, f"measured: {_count(len(trainings), 'other training')}")
        if known is None or not work.decoding_steps:
            return computed
        low, high = _decoding(work, known)
        return Range(computed.low + low, computed.high + high, f"{computed.basis}; decoding assumed")
    if known is None:
        return None
    seconds = assumed(work, known)
    return replace(seconds, basis=OF_ONE_GPU) if _SEVERAL_GPUS.match(device) else seconds


def _is_alike(entry: Measured, settings: ExperimentSettings) -> bool:
    """Whether an earlier step has the technique and the objective, if its kind depends on them."""
    if entry.technique is None:
        return True
    return entry.technique == settings.technique and (
        entry.kind == "merged_model" or entry.objective == settings.objective
    )


def _from_speeds(work: Work, entries: Sequence[Measured], margin: float, basis: str) -> Range:
    speeds = [entry.speed for entry in entries]
    return Range(work.operations / max(speeds) / margin, work.operations / min(speeds) * margin, basis)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def assumed(work: Work, device: Device) -> Range:
    """Return the seconds on a device that was not measured."""
    slow, fast = device.speed
    decoding = _decoding(work, device)
    waits = [work.steps * step + start for step, start in zip(device.step, device.start, strict=True)]
    return Range(
        work.operations / fast + decoding[0] + waits[0], work.operations / slow + decoding[1] + waits[1], ASSUMED
    )


def _decoding(work: Work, device: Device) -> tuple[float, float]:
    """Return the seconds of decoding that do not depend on the operations."""
    slow, fast = device.bandwidth
    low, high = device.token
    return (
        work.decoding_steps * (work.weight_bytes / fast + low),
        work.decoding_steps * (work.weight_bytes / slow + high),
    )


def added(ranges: Iterable[Range]) -> Range:
    """Return the seconds of several steps one after another."""
    entries = list(ranges)
    bases = {entry.basis for entry in entries}
    if bases == {ASSUMED, OF_ONE_GPU}:
        bases.remove(ASSUMED)
    basis = bases.pop() if len(bases) == 1 else "measured and assumed"
    return Range(sum(entry.low for entry in entries), sum(entry.high for entry in entries), basis)
