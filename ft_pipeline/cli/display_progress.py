"""Output of `ft` while steps run: a bar in a terminal, one line per minute in a log file."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from ft_pipeline.cli.display_text import is_terminal, say
from ft_pipeline.events import Progress as JobProgress
from ft_pipeline.events import StepEvent, listening
from ft_pipeline.pace import format_duration

LINE_SECONDS = 60.0
"""Seconds between two lines of a step if there is no bar."""
PLANNING = "planning"
"""Label of what comes before the first step."""
BAR_WIDTH = 16
SHORT_SECONDS = 60.0
"""A step that took less is shown with a tenth of a second."""
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
        stack.enter_context(_own_descriptor(console))
        display: _StepDisplay
        if console.is_interactive and is_terminal(console):
            display = _Bar(stack.enter_context(_new_bar(console)))
        else:
            display = stack.enter_context(Lines(lambda line: say(console, escape(line)), line_seconds))

        def show_event(event: StepEvent) -> None:
            label = f"{event.asset} [{event.experiment}]" if event.experiment else event.asset
            if event.state in {"waiting", "notes"}:
                say(console, f"… {escape(f'{label}: {event.message}')}")
                return
            display.end(PLANNING)
            display.end(label)
            if event.state == "started":
                display.start(label)
                return
            mark = "[green]✓[/]" if event.succeeded else "[red]✗[/]"
            say(console, f"{mark} {escape(f'{label:<28}')} {event.state:<12} {_time(event.seconds):>12}")

        stack.enter_context(listening(JobProgress, display.update))
        stack.enter_context(listening(StepEvent, show_event))
        display.start(PLANNING)
        yield


@contextmanager
def _own_descriptor(console: Console) -> Iterator[None]:
    """Within the block, let the console write to a copy of its file descriptor.

    Dagster redirects the descriptor itself to a log file while a step runs, so that a bar would be drawn there.
    """
    file = console.file
    try:
        descriptor = os.dup(file.fileno())
    except (OSError, ValueError):  # a file in memory
        yield
        return
    with os.fdopen(descriptor, "w", encoding=console.encoding, errors="replace") as copy:
        console.file = copy
        try:
            yield
        finally:
            console.file = None if file is sys.stderr else file  # type: ignore[assignment]  # None: Rich looks it up again


def _new_bar(console: Console) -> Progress:
    """Return bars that fit into 80 columns: the time left is shown before numbers such as the loss."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(BAR_WIDTH, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        _NoteColumn(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    return Progress(
        *columns, console=console, transient=True, expand=True, redirect_stdout=False, redirect_stderr=False
    )


class _NoteColumn(ProgressColumn):
    """How far a step is, the time left, and its numbers; before its first report, how long it runs."""

    def render(self, task: Task) -> Text:
        report: JobProgress | None = task.fields["report"]
        if report is None:
            return Text(format_duration(task.elapsed or 0))
        left = None if report.eta is None else max(0.0, report.eta - (task.get_time() - task.fields["reported"]))
        return Text(", ".join(report.parts(left)))


class _Bar:
    """The running steps, a bar each."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def start(self, label: str) -> None:
        self._tasks[label] = self._bar.add_task(escape(label), total=None, report=None, reported=0.0)

    def update(self, progress: JobProgress) -> None:
        if (task := self._tasks.get(progress.label)) is not None:
            now = self._bar.get_time()
            self._bar.update(task, completed=progress.step, total=progress.total, report=progress, reported=now)

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


def _time(seconds: float) -> str:
    """Return how long a step took, to a tenth of a second if it was short."""
    return f"{seconds:.1f} s" if seconds < SHORT_SECONDS else format_duration(seconds)
