"""Output of `ft` while steps run: a bar in a terminal, one line per minute in a log file."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from ft_pipeline.execution.events import Progress as JobProgress
from ft_pipeline.execution.events import StepEvent, listening
from ft_pipeline.execution.pace import format_duration

LINE_SECONDS = 60.0
"""Seconds between two lines of a step if there is no bar."""
_CHECKS_PER_LINE = 60
"""Number of checks whether a line is due, in the time between two lines."""


class _StepDisplay(Protocol):
    """Shows the running steps. Several run when experiments train side by side."""

    def start(self, label: str) -> None: ...

    def update(self, progress: JobProgress) -> None: ...

    def end(self, label: str) -> None: ...


@contextmanager
def live_progress(console: Console, line_seconds: float = LINE_SECONDS) -> Iterator[None]:
    """Within the block, print a line for each step that ends. Show each running step as a bar, or, if `console` is not
    a terminal (CI, cron, systemd), as a line per `line_seconds`."""
    with ExitStack() as stack:
        display: _StepDisplay
        if _is_terminal(console):
            display = _Bar(stack.enter_context(_new_bar(console)))
        else:
            display = stack.enter_context(Lines(lambda line: console.print(escape(line), soft_wrap=True), line_seconds))

        def show_event(event: StepEvent) -> None:
            label = f"{event.asset} [{event.experiment}]" if event.experiment else event.asset
            if event.state in {"waiting", "notes"}:
                console.print(f"… {escape(f'{label} {event.message}')}", soft_wrap=True)
                return
            display.end(label)
            if event.state == "started":
                display.start(label)
                return
            mark = "[green]✓[/]" if event.succeeded else "[red]✗[/]"
            console.print(f"{mark} {escape(f'{label:<28}')} {event.state:<12}{event.seconds:>8.1f} s")

        stack.enter_context(listening(JobProgress, display.update))
        stack.enter_context(listening(StepEvent, show_event))
        yield


def _is_terminal(console: Console) -> bool:
    """Return whether a bar can be animated. FORCE_COLOR, which CI services set, does not make a file a terminal."""
    return console.is_interactive and console.file.isatty()


def _new_bar(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True)


class _Bar:
    """The running steps, a bar each."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def start(self, label: str) -> None:
        self._tasks[label] = self._bar.add_task(escape(label), total=None, note="")

    def update(self, progress: JobProgress) -> None:
        if (task := self._tasks.get(progress.label)) is not None:
            note = progress.line().removeprefix(f"{progress.label}: ")
            self._bar.update(task, completed=progress.step, total=progress.total, note=escape(note))

    def end(self, label: str) -> None:
        if (task := self._tasks.pop(label, None)) is not None:
            self._bar.remove_task(task)


@dataclass
class _Running:
    """A running step. Times are those of the clock of `Lines`."""

    label: str
    started: float
    last_line: float
    """Time of its last line; before the first line, the time when it started."""
    progress: JobProgress | None = None
    """Its last report."""
    last_report: float = 0.0
    """Time of its last report."""


class Lines:
    """Prints one plain line per `seconds` for each running step; a shorter step has none. Use it in a `with` block.

    A thread checks the clock, since users need these lines most if a step reports nothing for an hour.
    """

    def __init__(
        self,
        print_line: Callable[[str], None],
        seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._print_line = print_line
        self._seconds = seconds
        self._clock = clock
        self._steps: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._print_due_lines, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def start(self, label: str) -> None:
        now = self._clock()
        with self._lock:
            self._steps[label] = _Running(label, now, now)

    def update(self, progress: JobProgress) -> None:
        with self._lock:
            if (step := self._steps.get(progress.label)) is not None:
                step.progress, step.last_report = progress, self._clock()

    def end(self, label: str) -> None:
        with self._lock:
            self._steps.pop(label, None)

    def tick(self) -> None:
        """Print the lines that are due."""
        with self._lock:
            now = self._clock()
            for step in self._steps.values():
                if now - step.last_line >= self._seconds:
                    step.last_line = now
                    self._print_line(_describe(step, now, self._seconds))

    def _print_due_lines(self) -> None:
        while not self._stopped.wait(self._seconds / _CHECKS_PER_LINE):
            with suppress(OSError):  # a closed pipe: the run itself continues
                self.tick()


def _describe(step: _Running, now: float, late_seconds: float) -> str:
    """Return the line of a running step, with the age of its last report if that is at least `late_seconds`."""
    if step.progress is None:
        return f"{step.label}: running for {format_duration(now - step.started)}"
    age = now - step.last_report
    late = f" (reported {format_duration(age)} ago)" if age >= late_seconds else ""
    return step.progress.line() + late
