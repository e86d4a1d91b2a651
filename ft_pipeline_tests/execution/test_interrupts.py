"""An interrupt ends what it interrupts, even if its exception is lost."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from ft_pipeline.execution.interrupts import noting_interrupts, raise_if_interrupted


class Interrupted:
    """Is interrupted while it is destroyed: Python prints the exception of the signal handler, and drops it."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal, handled as Dagster handles both."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_whose_exception_is_lost_is_raised_later(number: signal.Signals) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), noting_interrupts():
        Interrupted(number)
        reached.append("the line after")
        raise_if_interrupted()
        reached.append("never")
    assert reached == ["the line after"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_is_raised_at_the_end_at_the_latest(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), noting_interrupts(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(number)  # Dagster suppresses it, too


def test_without_an_interrupt_nothing_is_raised() -> None:
    before = signal.set_wakeup_fd(-1)
    raise_if_interrupted()
    with noting_interrupts(), noting_interrupts():
        raise_if_interrupted()
    assert signal.set_wakeup_fd(before) == -1


def test_a_thread_may_run_what_notes_interrupts() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with noting_interrupts():
                raise_if_interrupted()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_the_pool_of_connections_prints_no_traceback_of_an_interrupt() -> None:
    pool = logging.getLogger("sqlalchemy.pool.impl.NullPool")
    before = pool.isEnabledFor(logging.ERROR)
    with noting_interrupts():
        assert not pool.isEnabledFor(logging.ERROR)
    assert pool.isEnabledFor(logging.ERROR) == before
