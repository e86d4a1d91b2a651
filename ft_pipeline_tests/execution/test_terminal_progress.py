"""What `ft` shows of a running step: a line a minute in a log, a bar in a terminal."""

import io
import re

from rich.console import Console

from ft_pipeline.cli.display_progress import Lines, live_progress
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.events import Progress, StepEvent, publish
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec

LABEL = "adapter [qlora]"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(step: int, **values: float) -> Progress:
    return Progress("adapter", LABEL, step, 900, values, eta=130)


def said_at(lines: Lines, clock: Clock, said: list[str], seconds: float) -> list[str]:
    """What is said once `seconds` have passed, looked at every second."""
    said.clear()
    for _ in range(round(seconds)):
        clock.now += 1
        lines.tick()
    return list(said)


def test_a_step_says_a_line_a_minute() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock=clock)
    lines.began(LABEL)
    assert said_at(lines, clock, said, 59) == []
    lines.reported(report(119, loss=1.5))
    lines.reported(report(120, loss=1.42, tokens_per_second=210, eta_seconds=130))
    assert said_at(lines, clock, said, 1) == [
        f"{LABEL}: 120/900, loss 1.42, tokens per second 210, 2 min 10 s left",
    ]
    assert said_at(lines, clock, said, 30) == []
    lines.reported(report(240))
    assert said_at(lines, clock, said, 30) == [f"{LABEL}: 240/900, 2 min 10 s left"]


def test_a_step_that_is_silent_is_told_too() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock=clock)
    lines.began("merged_model [qlora]")
    assert said_at(lines, clock, said, 120) == [
        "merged_model [qlora]: running for 1 min 0 s",
        "merged_model [qlora]: running for 2 min 0 s",
    ]
    lines.began(LABEL)
    lines.reported(report(120))
    assert said_at(lines, clock, said, 60) == [f"{LABEL}: 120/900, 2 min 10 s left (reported 1 min 0 s ago)"]


def test_short_steps_say_nothing() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock=clock)
    for _ in range(5):
        lines.began(LABEL)
        lines.reported(report(1))
        assert said_at(lines, clock, said, 40) == []
        lines.ended()
    assert said_at(lines, clock, said, 300) == []
    lines.reported(report(2))  # of a step that has ended
    assert said_at(lines, clock, said, 300) == []


def shown(store: ArtifactStore, launcher: LocalLauncher, out: io.StringIO, sleep: float, **options: float) -> str:
    """What is shown of a worker that counts to eight, as its step."""
    spec = Spec("count", config={"steps": 8, "sleep": sleep})
    with live_progress(Console(file=out, width=140), **options):
        publish(StepEvent("count", None, "started"))
        build_artifact(None, store, spec, device=True, launcher=launcher)
        publish(StepEvent("count", None, "built", seconds=1.3))
    return out.getvalue()


def test_a_real_worker_in_a_log(store: ArtifactStore, launcher: LocalLauncher) -> None:
    lines = shown(store, launcher, io.StringIO(), 0.4, line_seconds=0.1).splitlines()
    assert re.fullmatch(r"✓ count +built +1\.3 s", lines.pop())
    with_pace = [line for line in lines if re.fullmatch(r"count: \d/8, loss [\d.]+, \d+ s left( \(.*\))?", line)]
    assert with_pace and "\x1b" not in "".join(lines)
    assert all(line.startswith("count: ") for line in lines)


def test_a_step_of_seconds_leaves_one_line_in_a_log(store: ArtifactStore, launcher: LocalLauncher) -> None:
    assert len(shown(store, launcher, io.StringIO(), 0).splitlines()) == 1


def test_colours_that_ci_asks_for_make_no_terminal() -> None:
    """FORCE_COLOR=1 in a log: no bar, whose every movement would be kept."""
    out = io.StringIO()
    with live_progress(Console(file=out, force_terminal=True)):
        publish(StepEvent("count", None, "started"))
        publish(StepEvent("count", None, "built", seconds=1.3))
    assert "\x1b[2K" not in out.getvalue() and "\r" not in out.getvalue()


def test_a_bar_in_a_terminal(store: ArtifactStore, launcher: LocalLauncher) -> None:
    out = Terminal()
    with live_progress(Console(file=out, force_terminal=True, width=140), line_seconds=0.05):
        publish(StepEvent("count", None, "started"))
        build_artifact(None, store, Spec("count", config={"steps": 4}), device=True, launcher=launcher)
        publish(StepEvent("count", None, "built", seconds=1.3))
    text = out.getvalue()
    assert "✓" in text and "\x1b[2K" in text
    assert not re.search(r"^count: \d", text, re.MULTILINE)
