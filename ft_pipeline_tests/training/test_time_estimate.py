"""Seconds of a step before it runs: from earlier steps on the device, or as an assumed range."""

from typing import Any

import pytest

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.time_estimate import (
    COMMON_GPUS,
    CPU,
    Measured,
    Range,
    added,
    assumed,
    device_name,
    estimate,
    one_of,
    unmeasured_device,
)
from ft_pipeline.training.work import Work

HERE = "AMD EPYC, 2 cores"
WORK = Work(1000)
WRITING = Work(1000, decoding_steps=100, weight_bytes=1e9)


def settings(technique: str = "lora", objective: str = "sft") -> ExperimentSettings:
    return ExperimentSettings.model_validate({"technique": technique, "objective": objective})


def measured(speed: float, technique: str | None = "lora", device: str = HERE, kind: str = "adapter") -> Measured:
    return Measured(kind, device, technique, technique and "sft", speed, 1.0, "2026-01-01", "f")


def seconds(work: Work, kind: str, entries: list[Measured], technique: str = "lora", device: str = HERE) -> Any:
    return estimate(work, kind, settings(technique), entries, device)


def test_the_range_is_that_of_earlier_steps_that_are_alike() -> None:
    entries = [measured(10), measured(20), measured(1, "full"), measured(1000, device="other")]
    assert seconds(WORK, "adapter", entries) == Range(50, 100, "measured: 2 alike")
    one = seconds(WORK, "adapter", entries, "full")
    assert (one.low, one.high, one.basis) == (800, 1250, "measured: 1 alike")


def test_other_trainings_give_a_wider_range() -> None:
    other = seconds(WORK, "adapter", [measured(10), measured(20)], "qlora")
    assert (other.low, other.high, other.basis) == (40, 125, "measured: 2 other trainings")
    assert estimate(WORK, "adapter", settings("lora", "dpo"), [measured(10)], HERE) == Range(
        80, 125, "measured: 1 other training"
    )


def test_writing_answers_is_assumed_where_only_trainings_were_measured() -> None:
    (low, high), other = CPU.token, seconds(WRITING, "scores", [measured(10)])
    assert other.basis == "measured: 1 other training; decoding assumed"
    assert other.low == pytest.approx(80 + 100 * (1e9 / CPU.bandwidth[1] + low))
    assert other.high == pytest.approx(125 + 100 * (1e9 / CPU.bandwidth[0] + high))
    assert seconds(WRITING, "scores", [measured(5, None, kind="scores")]).basis == "measured: 1 alike"


def test_a_merge_depends_on_the_technique_alone() -> None:
    entries = [measured(10, kind="merged_model")]
    assert estimate(WORK, "merged_model", settings("lora", "dpo"), entries, HERE) == Range(80, 125, "measured: 1 alike")
    assert seconds(WORK, "merged_model", entries, "qlora").basis == "assumed"


def test_what_was_not_measured_is_a_range_that_says_so() -> None:
    ranges = [assumed(Work(1e16, steps=100), gpu) for gpu in COMMON_GPUS]
    assert all(entry.low < entry.high and entry.basis == "assumed" for entry in ranges)
    assert ranges[0].high == pytest.approx(1e16 / 6.5e12 + 100 * 0.3 + 60)
    writing = assumed(Work(0, decoding_steps=10, weight_bytes=32e9), COMMON_GPUS[0])
    assert writing.high == pytest.approx(10 * (32e9 / (0.3 * 320e9) + 0.05) + 60)


def test_several_gpus_are_as_fast_as_one_until_they_are_measured() -> None:
    one, two = (seconds(WRITING, "adapter", [], device=f"{count}NVIDIA L4") for count in ("", "2 x "))
    assert (two.low, two.high, two.basis) == (one.low, one.high, "assumed for one GPU")
    assert seconds(WORK, "adapter", [measured(10, device="2 x NVIDIA L4")], device="2 x NVIDIA L4").low == 80
    assert added([one, two]).basis == two.basis
    assert [one_of(name) for name in ("2 x NVIDIA L4", "NVIDIA L4", HERE)] == ["NVIDIA L4", "NVIDIA L4", HERE]


def test_a_known_gpu_has_a_data_sheet_and_another_one_needs_a_training() -> None:
    gpu = unmeasured_device("NVIDIA A100-SXM4-80GB")
    assert gpu is not None and gpu.name == "A100 80 GB"
    assert seconds(WORK, "adapter", [], device="NVIDIA GB10") is None
    assert seconds(WORK, "adapter", [measured(10, device="NVIDIA GB10")], device="NVIDIA GB10").low == 80


def test_steps_one_after_another_are_added() -> None:
    assert added([Range(1, 2, "assumed"), Range(10, 20, "assumed")]) == Range(11, 22, "assumed")
    assert added([Range(1, 2, "assumed"), Range(1, 1, "measured: 1 alike")]).basis == "measured and assumed"


def test_how_far_off_a_range_was() -> None:
    assert Range(50, 200, "").off_by(100) == pytest.approx(1)
    assert Range(50, 200, "").off_by(300) == pytest.approx(3)


def test_devices_are_named_as_they_are_compared() -> None:
    assert device_name(["NVIDIA L4", "NVIDIA L4"], {}) == "2 x NVIDIA L4"
    assert device_name([], {"processor": "AMD EPYC", "cores": 2}) == "AMD EPYC, 2 cores"
