"""Held-out losses during training: how often, on which rows, which checkpoints are kept, and early stopping."""

import json
import re

import pytest
import torch
from transformers import TrainerControl, TrainerState, get_scheduler

from ft_pipeline.errors import UserError
from ft_pipeline.job import Rank
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.training import adapter
from ft_pipeline.training.techniques import new_model
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.tokens.sample import sample_rows
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.checkpoints import checkpoint_step, newest_valid
from ft_pipeline.training.trainer.data_parallel import Ranks
from ft_pipeline.training.trainer.evaluations import EarlyStopping, evaluation_intervals, steps_per_epoch
from ft_pipeline.training.trainer.token_trainer import TokenTrainer
from ft_pipeline_tests.training.subject import Listener, job, make_training_data, settings, support_rows

ROWS = [{"id": f"{number:064x}"} for number in range(1000)]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_base):
    return make_training_data(tmp_path_factory.mktemp("data"), tiny_base, support_rows(), settings())


def train(folder, data, base, experiment, report=None):
    work = job("adapter", folder, experiment, {"training_data": data, "base_model": base}, report=report)
    return work, adapter.run(work)


def evaluated(work):
    lines = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def training(**keys):
    return settings(**{"eval_steps": None, **keys}).training


@pytest.mark.parametrize(
    ("keys", "rows", "expected"),
    [
        ({}, 50_000, (3125, 3125)),  # 12,500 steps per epoch
        ({"evals_per_epoch": 1}, 50_000, (12_500, 12_500)),
        ({"gradient_accumulation_steps": 4}, 50_000, (782, 782)),  # 3,125 steps per epoch
        ({"max_steps": 100}, 50_000, (25, 25)),  # a run that ends within its first epoch
        ({"max_steps": 100_000}, 50_000, (3125, 3125)),
        ({"evals_per_epoch": 4}, 9, (1, 1)),  # 3 steps per epoch
        ({"evals_per_epoch": 4}, 20, (2, 2)),  # 5 steps per epoch: after 2, 4 and 5
        ({"eval_steps": 10, "evals_per_epoch": 2}, 50_000, (10, 10)),
        ({"eval_steps": 10, "save_steps": 3}, 50_000, (10, 3)),
        ({"save_steps": 500}, 50_000, (3125, 500)),
    ],
)
def test_evaluation_and_save_intervals_are_shares_of_an_epoch(keys, rows, expected):
    assert evaluation_intervals(training(**keys), [10] * rows) == expected


@pytest.mark.parametrize("rank", [Rank(), Rank(1, 2), Rank(2, 3)], ids=["alone", "of two", "of three"])
def test_steps_per_epoch_equals_the_steps_of_the_trainer(tmp_path, data, tiny_base, rank):
    rows = read_split(data, "train")
    cases = [(24, 4, 1), (23, 4, 4), (5, 2, 3), (1, 4, 8), (21, 4, 2)]
    for count, batch, accumulation in [*cases, (24, None, 1), (23, None, 2)]:
        size = {"per_device_train_batch_size": batch} if batch else {"tokens_per_batch": 200, "max_length": 200}
        keys = training(gradient_accumulation_steps=accumulation, **size)
        trainer = TokenTrainer(
            new_model(tiny_base, settings(), "cpu"),
            load_tokenizer(tiny_base),
            rows[:count],
            rows[:1],
            training_arguments(keys, tmp_path, "cpu", adapter.compute_dtype("cpu")),
            Ranks(rank),
        )
        _, steps, *_, total = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        lengths = [len(row["input_ids"]) for row in rows[:count]]
        assert steps_per_epoch(keys, lengths) == steps, (count, batch, accumulation)
        assert total == steps * keys.num_train_epochs


def test_a_sample_is_stable_and_hardly_changes_with_new_rows():
    chosen = sample_rows(ROWS, 100)
    assert len(chosen) == 100 and chosen == sorted(chosen, key=ROWS.index)
    assert sample_rows(ROWS[:100], 100) == ROWS[:100]
    shuffled = sample_rows(ROWS[::-1], 100)
    assert sorted(row["id"] for row in shuffled) == [row["id"] for row in chosen]
    larger = sample_rows([*ROWS, {"id": "new"}], 100)
    assert sum(row in larger for row in chosen) >= 99
    tenfold = [{"id": f"{number:064x}"} for number in range(10_000)]
    ids = [int(row["id"], 16) for row in sample_rows(tenfold, 1000)]
    assert 4500 < sum(ids) / len(ids) < 5500  # from all parts of the split


def test_eval_rows_limits_the_evaluated_rows_and_is_logged(tmp_path, data, tiny_base):
    whole, _ = train(tmp_path / "whole", data, tiny_base, settings(max_steps=1))
    part, _ = train(tmp_path / "part", data, tiny_base, settings(max_steps=1, eval_rows=2))
    assert any("use 2 of 6 validation rows" in line for line in part.report.lines)
    assert not any("validation rows" in line for line in whole.report.lines)
    assert evaluated(part)[0] != pytest.approx(evaluated(whole)[0], abs=1e-4)


def test_evaluations_follow_the_interval_and_the_last_step(tmp_path, data, tiny_base):
    """An epoch has 6 steps; a quarter of it is rounded up to 2 steps."""
    work, _ = train(tmp_path / "epochs", data, tiny_base, settings(eval_steps=None, num_train_epochs=2))
    assert list(evaluated(work)) == [0, 2, 4, 6, 8, 10, 12]
    work, summary = train(tmp_path / "end", data, tiny_base, settings(eval_steps=4, max_steps=5))
    assert list(evaluated(work)) == [0, 4, 5]
    assert summary["best_step"] in (4, 5)


class Watcher(Listener):
    """A listener that records which checkpoints exist before each step is saved, and can stop the run."""

    def __init__(self, folder, last=None):
        super().__init__()
        self._folder = folder
        self._last = last
        self.checkpoints = {}

    def progress(self, step, total, **values):
        super().progress(step, total, **values)
        names = [path.name for path in self._folder.glob("checkpoint-*")]
        self.checkpoints[step] = sorted(int(re.sub(r"\D", "", name)) for name in names)
        if step == self._last:
            raise UserError("stopped by the test")


SAVES = {"eval_steps": 3, "save_steps": 4, "num_train_epochs": 2}
LEARNS, STALLS = {"learning_rate": 3e-3}, {"learning_rate": 1e-30}
"""A run whose held-out losses fall, and one whose losses stay the same, so that its first evaluation is its best."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data, tiny_base):
    """An uninterrupted run whose losses fall, and what was watched."""
    return watched(tmp_path_factory.mktemp("whole"), data, tiny_base, LEARNS)


def watched(folder, data, base, rate):
    watcher = Watcher(folder / "work" / "checkpoints")
    return (*train(folder, data, base, settings(**SAVES, **rate), watcher), watcher)


@pytest.mark.parametrize("rate", [LEARNS, STALLS], ids=["learns", "stalls"])
def test_checkpoints_follow_save_steps_and_the_best_is_always_kept(tmp_path, data, tiny_base, whole, rate):
    work, summary, watcher = whole if rate is LEARNS else watched(tmp_path, data, tiny_base, rate)
    losses = {step: loss for step, loss in evaluated(work).items() if step}
    assert list(losses) == [3, 6, 9, 12]
    assert (summary["best_step"] == 3) is (rate is STALLS)
    saved: set[int] = set()
    for step in range(1, 13):
        before = {evaluated_step: loss for evaluated_step, loss in losses.items() if evaluated_step < step}
        best = {min(before, key=before.get)} if before else set()
        saved |= best | ({step - 1} if step > 1 and (step - 1) % 4 == 0 else set())
        assert best | {max(saved, default=0)} - {0} <= set(watcher.checkpoints[step]) <= saved, step
        assert len(watcher.checkpoints[step]) <= 2, step
    assert summary["best_step"] == min(losses, key=losses.get)
    assert checkpoint_step(newest_valid(work.work / "checkpoints")) == 12


def test_a_run_resumes_from_a_checkpoint_between_evaluations(tmp_path, data, tiny_base, whole):
    experiment = settings(**SAVES, **LEARNS)
    with pytest.raises(UserError, match="stopped by the test"):
        train(tmp_path, data, tiny_base, experiment, Watcher(tmp_path, last=11))
    assert checkpoint_step(newest_valid(tmp_path / "work" / "checkpoints")) in (8, 9)
    work, summary = train(tmp_path, data, tiny_base, experiment)
    assert summary["resumed_from_step"] in (8, 9)
    assert evaluated(work) == evaluated(whole[0])
    assert summary["best_step"] == whole[1]["best_step"]
    resumed, uninterrupted = (run.out / "adapter_model.safetensors" for run in (work, whole[0]))
    assert resumed.read_bytes() == uninterrupted.read_bytes()


EARLY_STOPPING = {**STALLS, "num_train_epochs": 8, "early_stopping_patience": 2}
"""A run of 48 steps that is evaluated after every third step."""


def steps_until_stopped(folder, training, last):
    """The steps of a run whose held-out losses stay the same, by its schedule alone: no model is trained."""
    arguments = training_arguments(training, folder, "cpu", torch.float32)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=training.learning_rate)
    schedule = get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(last), last)
    state, stopping = TrainerState(max_steps=last), EarlyStopping(training.early_stopping_patience)
    for step in range(1, last + 1):
        state.global_step = step
        state.log_history.append({"step": step, "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        if step % training.eval_steps == 0:
            state.log_history.append({"step": step, "eval_loss": 1.0})
            control = TrainerControl()
            stopping.on_evaluate(arguments, state, control)
            if control.should_training_stop:
                assert control.should_save
                return step
    return last


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"lr_scheduler_type": "cosine"}, 42),  # at most a tenth of the learning rate from step 40 on
        ({"lr_scheduler_type": "linear"}, 45),  # from step 45 on
        ({"lr_scheduler_type": "constant"}, 9),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.3}, 18),  # 15 steps of warmup
        ({"lr_scheduler_type": "cosine", "early_stopping_patience": 0}, 48),
        ({"lr_scheduler_type": "constant", "early_stopping_patience": None}, 48),
        ({"lr_scheduler_type": "cosine", "early_stopping_patience": 15}, 48),  # reached only at the end
    ],
)
def test_early_stopping_waits_until_the_schedule_has_decayed(tmp_path, keys, steps):
    assert steps_until_stopped(tmp_path, settings(**{**EARLY_STOPPING, **keys}).training, 48) == steps


def test_a_training_stops_early_where_its_schedule_says(tmp_path, data, tiny_base):
    keys = {**EARLY_STOPPING, "num_train_epochs": 2, "eval_steps": 1, "lr_scheduler_type": "cosine"}
    work, summary = train(tmp_path, data, tiny_base, settings(**keys))
    assert summary["steps"] == steps_until_stopped(tmp_path, settings(**keys).training, 12) == 11
    assert summary["best_step"] == 1 and summary["stopped_early"]
    assert list(evaluated(work)) == list(range(12))


def test_resuming_a_run_that_stopped_early_trains_no_further_step(tmp_path, data, tiny_base):
    experiment = settings(**EARLY_STOPPING, lr_scheduler_type="constant", save_steps=100)
    work, summary = train(tmp_path, data, tiny_base, experiment)
    assert list(evaluated(work)) == [0, 3, 6, 9] and summary["best_step"] == 3
    assert checkpoint_step(newest_valid(work.work / "checkpoints")) == summary["steps"] == 9
    resumed = adapter.run(work)
    assert resumed["resumed_from_step"] == resumed["steps"] == 9 and resumed["stopped_early"]
