"""Seconds of a training before it runs: from earlier trainings on the device, or as an assumed range."""

from typing import Any

import pytest

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.time_estimate import (
    COMMON_GPUS,
    Measured,
    Range,
    Work,
    assumed_on_gpu,
    device_name,
    estimate,
    work_of,
)

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}
AUDIT: dict[str, Any] = {"tokens": 12_000, "rows": {"human/train": 100, "human/validation": 20}}
MULTIPLIED = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 1000 * 64


def settings(technique: str = "lora", **training: Any) -> ExperimentSettings:
    training = {"per_device_train_batch_size": 8, "num_train_epochs": 2, **training}
    return ExperimentSettings.model_validate({"technique": technique, "training": training})


def measured(speed: float, technique: str = "lora", device: str = "cpu") -> Measured:
    return Measured(device, technique, "sft", speed, "2026-01-01", "f")


def test_work_is_tokens_times_parameters_and_attention() -> None:
    work = work_of(settings(), CONFIG, AUDIT, None)
    assert (work.tokens, work.steps) == (100 * 2 * 100, 26)
    assert work.per_token == 4 * MULTIPLIED + 6 * 2 * 64 * 100
    assert work_of(settings("full"), CONFIG, AUDIT, None).per_token == 6 * MULTIPLIED + 6 * 2 * 64 * 100


def test_work_counts_the_steps_that_run() -> None:
    assert work_of(settings(max_steps=5), CONFIG, AUDIT, None).tokens == 5 * 8 * 100
    assert work_of(settings(), CONFIG, AUDIT, 15).tokens == 100 * 100 + 2 * 8 * 100  # it stopped in the second epoch
    accumulated = work_of(settings(gradient_accumulation_steps=2), CONFIG, AUDIT, None)
    assert (accumulated.steps, accumulated.tokens) == (14, 20_000)


def test_the_range_is_that_of_the_trainings_of_the_same_technique() -> None:
    work = Work(tokens=100, per_token=10, steps=1)
    trainings = [measured(10), measured(20), measured(1, "full"), measured(1000, device="other")]
    assert estimate(work, settings(), trainings, "cpu") == Range(
        50, 100, "measured: 2 trainings of this technique and objective"
    )
    one = estimate(work, settings("full"), trainings, "cpu")
    assert one is not None and (one.low, one.high) == (800, 1250)
    other = estimate(work, settings("qlora"), trainings[:2], "cpu")
    assert other is not None and other.low == 40 and other.basis.endswith("another technique or objective")
    assert estimate(work, settings(), trainings, "unknown") is None


def test_how_far_off_a_range_was() -> None:
    assert Range(50, 200, "").off_by(100) == pytest.approx(1)
    assert Range(50, 200, "").off_by(300) == pytest.approx(3)


def test_a_gpu_that_was_not_measured_is_a_range_that_says_so() -> None:
    ranges = [assumed_on_gpu(Work(1e6, 1e10, 100), gpu) for gpu in COMMON_GPUS]
    assert all(entry.low < entry.high and entry.basis.startswith("assumed: 10% to 40%") for entry in ranges)
    assert ranges[0].high == pytest.approx(1e16 / 6.5e12 + 100 * 0.3 + 60)


def test_devices_are_named_as_they_are_compared() -> None:
    assert device_name(["NVIDIA L4", "NVIDIA L4"], {}) == "2 x NVIDIA L4"
    assert device_name([], {"processor": "AMD EPYC", "cores": 2}) == "AMD EPYC, 2 cores"
