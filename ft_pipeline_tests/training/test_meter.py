"""Training throughput: whole optimizer steps, without evaluations and checkpoints, and as trackers record it."""

from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from ft_pipeline.models.load import compute_dtype, load_tokenizer
from ft_pipeline.training import adapter
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.trainer import callbacks
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.callbacks import Throughput
from ft_pipeline.training.trainer.token_trainer import TokenTrainer
from ft_pipeline_tests.training.subject import job, make_training_data, settings, support_rows


class Clock:
    """A clock that only advances when a test advances it."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: self.now))

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), settings())


def test_a_gpu_step_is_timed_until_its_kernels_have_finished(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: clock.advance(9))
    for device, seconds in (("cuda:0", 10), ("cpu", 1)):
        meter = Throughput(torch.device(device))
        meter.tokens = 100
        meter.start_step()
        clock.advance(1)
        meter.on_step_end(None, None, None)
        assert meter.seconds == seconds and meter.tokens_per_second == 100 / seconds


class Durations(TrainerCallback):
    """Advances the clock by a fixed time in each part of a training."""

    def __init__(self, clock):
        self._clock = clock

    def on_substep_end(self, *_, **__):
        self._clock.advance(1)

    def on_pre_optimizer_step(self, *_, **__):
        self._clock.advance(10)

    def on_evaluate(self, *_, **__):
        self._clock.advance(1_000)

    def on_save(self, *_, **__):
        self._clock.advance(100_000)


def test_throughput_counts_whole_steps_without_evaluations_and_checkpoints(tmp_path, data, tiny_base, monkeypatch):
    clock = Clock(monkeypatch)
    rows = read_split(data, "train")
    experiment = settings(gradient_accumulation_steps=2, num_train_epochs=1)
    arguments = training_arguments(experiment.training, tmp_path, "cpu", compute_dtype("cpu"))
    arguments.eval_steps = arguments.save_steps = 1
    model = new_model(tiny_base, experiment, "cpu")
    trainer = TokenTrainer(model, load_tokenizer(tiny_base), rows, rows[:2], arguments)
    trainer.add_callback(Durations(clock))
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.meter.seconds == 3 * (1 + 10)
    assert trainer.meter.tokens == sum(len(row["input_ids"]) for row in rows)
    rates = [entry["tokens_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[-1] == pytest.approx(trainer.meter.tokens / 33)


def test_trackers_record_throughput_and_memory(tmp_path, data, tiny_base):
    experiment = settings(max_steps=3, report_to=["tensorboard"])
    work = job("adapter", tmp_path, experiment, {"training_data": data, "base_model": tiny_base})
    assert work.config["experiment"]["training"]["report_to"] == []
    adapter.run(work)
    (events,) = work.work.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    for name, minimum in (("tokens_per_second", 1), ("memory_gb", 0.01)):
        values = accumulator.Scalars(f"train/{name}")
        assert [value.step for value in values] == [1, 2, 3]
        assert all(value.value > minimum for value in values)
