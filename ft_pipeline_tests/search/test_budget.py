"""When a search ends: its budget counts the time of all attempts, its number all ended trials."""

from pathlib import Path

from ft_pipeline.project import Project
from ft_pipeline.search.study import SweepRequest
from ft_pipeline.search.sweep import reason_to_end
from ft_pipeline.search.trials import State, Trial


def trial(number: int, seconds: float, state: State = "complete") -> Trial:
    return Trial(number, {}, state, (1.0,), 1, seconds, 0)


def reason(ended: list[Trial], begun_seconds: float = 0.0, **limits: float) -> str | None:
    request = SweepRequest(
        Project(Path("shop")), "lora", (), limits.get("budget"), int(limits.get("trials", 0)) or None
    )
    return reason_to_end(request, ended, begun_seconds)


def test_a_number_of_trials_includes_those_that_were_stopped_or_failed() -> None:
    ended = [trial(1, 10), trial(2, 2, "pruned"), trial(3, 1, "failed")]
    assert reason(ended, trials=4) is None
    assert reason(ended, trials=3) == "3 trials have ended"


def test_a_trial_that_would_not_fit_is_not_started() -> None:
    ended = [trial(1, 40), trial(2, 20), trial(3, 5, "pruned")]
    assert reason(ended, budget=96) is None
    message = "1 min 5 s of 1 min 35 s are spent, and a trial takes 30 s"
    assert reason(ended, budget=95) == message


def test_the_time_of_a_killed_attempt_counts_and_its_trial_is_finished() -> None:
    ended = [trial(1, 40)]
    assert reason(ended, begun_seconds=50, budget=100) is None
    assert reason(ended, begun_seconds=60, budget=100) is not None


def test_the_first_trial_always_runs() -> None:
    assert reason([], begun_seconds=500, budget=10) is None
