"""Dagster runs of `ft run` in child processes, so that several experiments train side by side.

Dagster redirects the output of the whole process while it executes a step. Therefore each run needs its own process.
The child sends events of its steps through a pipe, and ends when the parent is gone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from ft_pipeline.events import Progress, StepEvent, listening, publish

MODULE = "ft_pipeline.execution.run_process"
STOP_SECONDS = 60.0
"""Seconds in which an interrupted child ends its worker. Later it is killed."""


@dataclass
class RunProcesses:
    """The child processes of one `ft run`."""

    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopped: bool = False

    def run(self, order: Mapping[str, Any]) -> list[str]:
        """Run what `order` says in a child process, and publish its events here. Returns what failed."""
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as output, os.fdopen(reading, "rb") as events:
            try:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE, json.dumps(order), str(writing)],
                    stdin=subprocess.PIPE,  # closes when this process ends
                    stdout=output,
                    stderr=output,
                    pass_fds=(writing,),
                    process_group=0,  # Ctrl-C reaches it through `stop` only, and once
                )
            finally:
                os.close(writing)
            self._running.append(child)
            if self._stopped:
                _interrupt(child)
            failures = _forward(events)
            code = child.wait()
            self._running.remove(child)
            return _crash(code, output) if failures is None else failures

    def stop(self) -> None:
        """Interrupt all children, and wait until they have ended."""
        self._stopped = True
        children = list(self._running)
        for child in children:
            _interrupt(child)
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)


def _forward(events: BinaryIO) -> list[str] | None:
    """Publish the events of a child until it ends, and return its failures; None if it did not send any result."""
    failures = None
    for line in events:
        message = json.loads(line)
        if "step" in message:
            publish(StepEvent(**message["step"]))
        elif "progress" in message:
            publish(Progress(**message["progress"]))
        else:
            failures = message["failures"]
    return failures


def _crash(code: int, output: BinaryIO) -> list[str]:
    """What to say of a child that ended without a result: the last line that it printed."""
    output.seek(0)
    last = output.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
    return [f"The process of the run ended with exit code {code}. {last}".strip()]


@contextlib.contextmanager
def _sending(descriptor: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Send the events of this process to the parent."""
    lock = threading.Lock()
    with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:

        def send(message: Mapping[str, Any]) -> None:
            with lock, contextlib.suppress(BrokenPipeError):  # the parent is gone, and this process is about to end
                pipe.write(json.dumps(message) + "\n")
                pipe.flush()

        with (
            listening(StepEvent, lambda event: send({"step": asdict(event)})),
            listening(Progress, lambda progress: send({"progress": asdict(progress)})),
        ):
            yield send


def _end_with_parent() -> None:
    """Interrupt this process when the parent's end of stdin closes."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run what the order in the first argument says; the second one is the pipe for events."""
    from ft_pipeline.execution.run import run_order

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_parent()
    os.set_inheritable(int(sys.argv[2]), False)
    with _sending(int(sys.argv[2])) as send:
        send({"failures": run_order(json.loads(sys.argv[1]))})


if __name__ == "__main__":
    main()
