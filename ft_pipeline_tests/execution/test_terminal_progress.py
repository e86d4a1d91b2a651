"""What `ft` shows of a running step: a line a minute in a log, a bar in a terminal."""

import io
import re
import time

from rich.console import Console

from ft_pipeline.cli.display_progress import Lines, live_progress
from ft_pipeline.events import Progress, StepEvent, publish
from ft_pipeline.execution.build import build_artifact
from ft_pipeline.execution.workers.launchers import LocalLauncher
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.pseudo_terminal import ESCAPE, in_terminal

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


def printed_within(lines: Lines, clock: Clock, printed: list[str], seconds: float) -> list[str]:
    """The lines printed during `seconds`, with one tick a second."""
    printed.clear()
    for _ in range(round(seconds)):
        clock.now += 1
        lines.tick()
    return list(printed)


def test_a_running_step_prints_one_line_a_minute() -> None:
    clock, printed = Clock(), list[str]()
    lines = Lines(printed.append, clock=clock)
    lines.start(LABEL)
    assert printed_within(lines, clock, printed, 59) == []
    lines.update(report(119, loss=1.5))
    lines.update(report(120, loss=1.42, tokens_per_second=210, eta_seconds=130))
    assert printed_within(lines, clock, printed, 1) == [
        f"{LABEL}: 120/900, 2 min 10 s left, loss 1.42, 210 tokens/s",
    ]
    assert printed_within(lines, clock, printed, 30) == []
    lines.update(report(240))
    assert printed_within(lines, clock, printed, 30) == [f"{LABEL}: 240/900, 2 min 10 s left"]


def test_steps_that_run_side_by_side_have_a_line_each() -> None:
    clock, printed = Clock(), list[str]()
    lines = Lines(printed.append, clock=clock)
    for name in ("qlora", "lora"):
        lines.start(f"adapter [{name}]")
    lines.update(Progress("adapter", "adapter [lora]", 7, 9))
    expected = ["adapter [qlora]: running for 1 min", "adapter [lora]: 7/9 (reported 1 min ago)"]
    assert printed_within(lines, clock, printed, 60) == expected
    lines.end("adapter [lora]")
    assert printed_within(lines, clock, printed, 60) == ["adapter [qlora]: running for 2 min"]


def test_a_step_without_progress_reports_is_shown_too() -> None:
    clock, printed = Clock(), list[str]()
    lines = Lines(printed.append, clock=clock)
    lines.start("merged_model [qlora]")
    assert printed_within(lines, clock, printed, 120) == [
        "merged_model [qlora]: running for 1 min",
        "merged_model [qlora]: running for 2 min",
    ]
    lines.end("merged_model [qlora]")
    lines.start(LABEL)
    lines.update(report(120))
    assert printed_within(lines, clock, printed, 60) == [f"{LABEL}: 120/900, 2 min 10 s left (reported 1 min ago)"]


def test_short_steps_print_nothing() -> None:
    clock, printed = Clock(), list[str]()
    lines = Lines(printed.append, clock=clock)
    for _ in range(5):
        lines.start(LABEL)
        lines.update(report(1))
        assert printed_within(lines, clock, printed, 40) == []
        lines.end(LABEL)
    assert printed_within(lines, clock, printed, 300) == []
    lines.update(report(2))  # of a step that has ended
    assert printed_within(lines, clock, printed, 300) == []


def shown(store: ArtifactStore, launcher: LocalLauncher, out: io.StringIO, sleep: float, **options: float) -> str:
    """The output of `ft` for a step whose worker counts to eight."""
    spec = Spec("count", config={"steps": 8, "sleep": sleep})
    with live_progress(Console(file=out, width=140), **options):
        publish(StepEvent("count", None, "started"))
        build_artifact(None, store, spec, device=True, launcher=launcher)
        publish(StepEvent("count", None, "built", seconds=1.3))
    return out.getvalue()


def test_a_log_shows_progress_lines_without_escape_codes(store: ArtifactStore, launcher: LocalLauncher) -> None:
    lines = shown(store, launcher, io.StringIO(), 0.2, line_seconds=0.1).splitlines()
    assert re.fullmatch(r"✓ count +built +1\.3 s", lines.pop())
    with_pace = [line for line in lines if re.fullmatch(r"count: \d/8, \d+ s left, loss [\d.]+( \(.*\))?", line)]
    assert with_pace and "\x1b" not in "".join(lines)
    assert all(line.startswith("count: ") for line in lines)


def test_a_short_step_prints_one_line_in_a_log(store: ArtifactStore, launcher: LocalLauncher) -> None:
    assert len(shown(store, launcher, io.StringIO(), 0).splitlines()) == 1


def test_forced_colors_do_not_turn_a_log_into_a_terminal() -> None:
    """A log with FORCE_COLOR=1 shows no bar, because each of its updates would stay in the log."""
    out = io.StringIO()
    with live_progress(Console(file=out, force_terminal=True)):
        publish(StepEvent("count", None, "started"))
        publish(StepEvent("count", None, "built", seconds=1.3))
    assert "\x1b[2K" not in out.getvalue() and "\r" not in out.getvalue()


def test_a_terminal_shows_a_bar(store: ArtifactStore, launcher: LocalLauncher) -> None:
    out = Terminal()
    with live_progress(Console(file=out, force_terminal=True, width=140), line_seconds=0.05):
        publish(StepEvent("count", None, "started"))
        build_artifact(None, store, Spec("count", config={"steps": 4}), device=True, launcher=launcher)
        publish(StepEvent("count", None, "built", seconds=1.3))
    text = out.getvalue()
    assert "✓" in text and "\x1b[2K" in text
    assert not re.search(r"^count: \d", text, re.MULTILINE)


def test_a_bar_shows_the_time_left_in_80_columns() -> None:
    """The numbers after it are cut, and the label is not."""
    label = "prompt_baseline [lora_attention]"
    values = {"loss": 1.4217, "tokens_per_second": 12345.678}
    out = Terminal()
    with live_progress(Console(file=out, force_terminal=True, width=80, color_system=None)):
        publish(StepEvent("prompt_baseline", "lora_attention", "started"))
        publish(Progress("prompt_baseline", label, 1200, 9000, values, eta=7505))
        time.sleep(0.3)  # until the bar is drawn again
    lines = [
        line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())) if line.strip()
    ]
    assert lines and all(len(line) <= 80 for line in lines)
    assert any(re.search(rf"{re.escape(label)} .* 1,200/9,000, 2 h 5 min left", line) for line in lines), lines


def test_a_bar_shows_how_long_a_step_runs_that_reports_nothing() -> None:
    out = Terminal()
    with live_progress(Console(file=out, force_terminal=True, width=80, color_system=None)):
        publish(StepEvent("merged_model", "qlora", "started"))
        time.sleep(0.3)
    assert re.search(r"merged_model \[qlora\] .* 0 s", out.getvalue())


REDIRECTED = """
import os, time
from ft_pipeline.cli.common import stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.events import Progress, StepEvent, publish
with live_progress(stderr):
    before = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    publish(StepEvent("adapter", "qlora", "started"))
    publish(Progress("adapter", "adapter [qlora]", 120, 900, {}, eta=130))
    time.sleep(0.5)
    publish(StepEvent("adapter", "qlora", "built", seconds=1.5))
    os.dup2(before, 2)
stderr.print("after")
"""
"""What Dagster does: the file descriptor is a log file while the step runs."""


def test_the_bar_is_drawn_while_dagster_captures_the_output() -> None:
    screen = in_terminal(REDIRECTED)
    assert re.search(r"adapter \[qlora\] .*120/900, 2 min \d+ s left", screen)
    _, _, end = screen.rpartition("✓")
    assert re.match(r" adapter \[qlora\] +built +1\.5 s\n", ESCAPE.sub("", end))
    _, _, last = end.rpartition("\x1b[2K")
    assert ESCAPE.sub("", last).strip() == "after", "no bar is left behind"


def test_the_time_of_a_long_step_is_in_minutes() -> None:
    out = io.StringIO()
    with live_progress(Console(file=out, width=80)):
        publish(StepEvent("adapter", "qlora", "built", seconds=192.4))
    assert re.fullmatch(r"✓ adapter \[qlora\] +built +3 min 12 s", out.getvalue().strip())


def test_a_note_of_a_step_names_it() -> None:
    out = io.StringIO()
    with live_progress(Console(file=out, width=80)):
        publish(StepEvent("adapter", "qlora", "notes", message="2,442,240 of 136,957,248 parameters are trainable"))
    assert out.getvalue() == "… adapter [qlora]: 2,442,240 of 136,957,248 parameters are trainable\n"
