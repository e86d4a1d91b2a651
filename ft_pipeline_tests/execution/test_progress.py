"""The progress that people read while a job runs."""

import time

import pytest

from ft_pipeline.events import Progress
from ft_pipeline.pace import Pace, Throttle, format_duration


def test_a_progress_line_shows_step_values_and_time_left() -> None:
    values = {"loss": 1.41723, "tokens_per_second": 260.4}
    line = Progress("adapter", "adapter [qlora]", 120, 900, values, eta=130).line()
    assert line == "adapter [qlora]: 120/900, 2 min 10 s left, loss 1.417, 260.4 tokens/s"


def test_the_time_left_is_shown_once() -> None:
    assert (
        Progress("adapter", "adapter", 1, 9, {"eta_seconds": 99.0}, eta=130).line() == "adapter: 1/9, 2 min 10 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (120, "2 min"), (130, "2 min 10 s"), (7200, "2 h"), (11_100, "3 h 5 min")],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_the_pace_of_a_resumed_job_ignores_earlier_steps() -> None:
    pace = Pace()
    assert pace.update(500, 1000)[1] is None
    eta = pace.update(750, 1000)[1]
    assert eta is not None
    elapsed, later = pace.update(1000, 1000)
    assert later == 0 and elapsed >= eta


def test_a_long_job_reports_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of ten hours would be six minutes."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    throttle = Throttle(5)
    now = 36_000.0
    assert throttle.ready()
    now += 59
    assert not throttle.ready()
    now += 1
    assert throttle.ready()


def test_the_throttle_passes_the_first_report() -> None:
    throttle = Throttle(3600)
    assert [throttle.ready(), throttle.ready()] == [True, False]
    assert all(Throttle(0, share=0).ready() for _ in range(3))
