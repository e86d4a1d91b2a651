"""Which values come next, which trainings are stopped, what mattered: by Optuna, from the ended trials alone."""

import math
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.search.result import best_trial
from ft_pipeline.search.sampling import importances, next_values
from ft_pipeline.search.space import Dimension, Value
from ft_pipeline.search.sweep import TrialClock
from ft_pipeline.search.trials import State, Trial
from ft_pipeline.training.trainer.pruning import is_behind

RATE = Dimension("training.learning_rate", low=1e-4, high=1e-2, log=True)
RANK = Dimension("lora.r", (8, 32))
SPACE = (RANK, RATE)


def trial(number: int, values: dict[str, Value], loss: float, state: State = "complete") -> Trial:
    return Trial(number, values, state, (loss + 0.5, loss), steps=4, seconds=1.0, seed=number)


def loss_of(values: dict[str, Any]) -> float:
    """Lowest at a rate of 1e-3; the rank matters little."""
    return 1 + abs(math.log10(values["training.learning_rate"]) + 3) + 0.001 * values["lora.r"]


def search(count: int, seed: int) -> list[Trial]:
    ended: list[Trial] = []
    for number in range(1, count + 1):
        values = next_values(SPACE, ended, seed + number, None)
        assert values is not None
        ended.append(trial(number, values, loss_of(values)))
    return ended


def test_a_search_is_repeatable_and_finds_the_lowest_loss() -> None:
    first = search(20, seed=3)
    assert first == search(20, seed=3) != search(20, seed=4)
    best = best_trial(first)
    assert best is not None and 5e-4 < float(str(best.values["training.learning_rate"])) < 2e-3
    shares = importances(SPACE, first)
    assert next(iter(shares)) == "training.learning_rate" and shares["training.learning_rate"] > 0.8


def test_the_next_values_depend_only_on_the_ended_trials() -> None:
    ended = search(8, seed=3)
    assert next_values(SPACE, ended[:7], 3 + 8, None) == ended[7].values


def test_the_experiments_own_values_come_first() -> None:
    own: dict[str, Value] = {"lora.r": 8, "training.learning_rate": 1e-3}
    assert next_values(SPACE, [], 1, own) == own
    assert next_values(SPACE, [trial(1, own, 1.0)], 2, own) != own


def test_lists_alone_are_tried_once_each() -> None:
    space = (RANK, Dimension("lora.target_modules", ("all-linear", ["q_proj"])))
    ended: list[Trial] = []
    while (values := next_values(space, ended, len(ended), None)) is not None:
        ended.append(trial(len(ended) + 1, values, 1.0, "pruned" if ended else "complete"))
    assert len(ended) == 4 and all(ended[0].values != other.values for other in ended[1:])


def test_failed_and_stopped_trials_are_never_chosen() -> None:
    values: dict[str, Value] = {"lora.r": 8, "training.learning_rate": 1e-3}
    trials = [trial(1, values, 2.0), trial(2, values, 1.0, "pruned"), Trial(3, values, "failed", (), 0, 1.0, 3, "no")]
    best = best_trial(trials)
    assert best is not None and best.number == 1
    assert importances(SPACE, trials) == {}
    assert best_trial(trials[1:]) is None
    assert next_values(SPACE, trials, 4, None) is not None


def test_a_training_is_stopped_only_behind_the_median_of_three() -> None:
    finished = [[3.0, 2.0, 1.0], [3.0, 2.2, 1.1], [3.0, 2.4, 1.2]]
    assert is_behind([3.0, 2.3], finished)
    assert not is_behind([3.0, 2.1], finished)
    assert not is_behind([9.0], finished), "the first evaluation never stops a training"
    assert not is_behind([3.0, 9.0], finished[:2]), "two finished trainings are too few"
    assert not is_behind([], finished)


def test_a_trial_survives_json() -> None:
    one = trial(1, {"lora.r": 8, "lora.target_modules": ["q_proj"]}, 1.0)
    assert Trial.from_json(one.to_json()) == one and one.name("lora") == "lora.try1" and one.loss == 1.0


def test_time_is_added_over_attempts(tmp_path: Path) -> None:
    clock = TrialClock(tmp_path)
    assert clock.seconds(1) == 0.0
    with pytest.raises(KeyboardInterrupt), clock.running(1):
        raise KeyboardInterrupt
    first = clock.seconds(1)
    with TrialClock(tmp_path).running(1):
        pass
    assert clock.seconds(1) > first > 0 and clock.seconds(2) == 0.0
