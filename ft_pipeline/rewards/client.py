"""Rewards from a process of their own: functions of the project must not be able to stop or slow down a training.

The process (process.py) gets only what it needs of the environment, and no secret. An
answer whose reward takes too long, or ends the process, has the lowest reward, and the process is started again. Each
rank of a training has a process of its own.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.rewards.settings import GrpoSettings

_MODULE = "ft_pipeline.rewards.process"
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""The variables that the process gets, of those of the worker."""
_SETTINGS = {
    "OMP_NUM_THREADS": "1",  # threads of numerical libraries would reserve memory
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # the order of a set must not change a reward
}
_START_SECONDS = 600
"""Time for loading the libraries and the project's functions: minutes on a machine that is short of memory."""


@dataclass(frozen=True)
class Answer:
    """An answer that gets a reward."""

    conversation: Mapping[str, Any]
    """{messages, tools}: the turns with the reference answer, and the declared tools as JSON text."""
    text: str
    calls: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Reward:
    """The reward of an answer."""

    total: float
    """The weighted mean of the values."""
    values: Mapping[str, float]
    failed: bool = False
    """Whether it is the lowest one because computing it took too long, ended the process or was too much for it."""


class RewardProcess:
    """Computes the rewards of one training."""

    def __init__(
        self,
        settings: GrpoSettings,
        config: Mapping[str, Any],
        gather: Callable[[list[float]], list[list[float]]] = lambda numbers: [numbers],
    ) -> None:
        """config: as config.reward_config returns it. gather: returns the numbers of all ranks. UserError if a
        function of the project cannot be loaded."""
        self._settings, self._gather = settings, gather
        self._first_line = {**config, "memory_bytes": int(settings.reward_memory_gb * 1e9)}
        self._folder = tempfile.TemporaryDirectory(prefix="rewards-")
        self._start()

    def rewards(self, answers: Sequence[Answer]) -> list[Reward]:
        """Return the reward of each answer. UserError if a function of the project raises an exception.

        An answer whose reward fails has the lowest values of these answers, and at most 0. Every rank must call this:
        the lowest values are those of all ranks.
        """
        found = [self._values(answer) for answer in answers]
        known = [values for values in found if values is not None]
        names = list(self._settings.rewards)
        of_ranks = self._gather([min([0.0, *(values[name] for values in known)]) for name in names])
        lowest = dict(zip(names, map(min, zip(*of_ranks, strict=True)), strict=True))
        return [self._reward(lowest, failed=True) if values is None else self._reward(values) for values in found]

    def close(self) -> None:
        """End the process."""
        self._end()

    def _reward(self, values: Mapping[str, float], *, failed: bool = False) -> Reward:
        weights = self._settings.rewards
        total = sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())
        return Reward(total, values, failed)

    def _values(self, answer: Answer) -> dict[str, float] | None:
        """Return the value of each metric; None if there is none in time."""
        line = {**answer.conversation, "answer": answer.text, "calls": list(answer.calls)}
        reply = self._ask(line, self._settings.reward_seconds)
        if reply is None:
            self._end()
            self._start()
            return None
        values: dict[str, float] | None = _checked(reply)["values"]
        return values

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        folder = self._folder.name
        path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],  # -P: a function may have written modules to the folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **_SETTINGS, "PYTHONPATH": path, "HOME": folder, "TMPDIR": folder},
            cwd=folder,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)
        reply = self._ask(self._first_line, _START_SECONDS)
        if reply is None:
            raise UserError(
                f"The process that computes rewards ended, or took over {_START_SECONDS} s, while it loaded its "
                f"metrics. Raise grpo.reward_memory_gb (now {self._settings.reward_memory_gb:g}), or correct the "
                "functions of the rewards."
            )
        self.limits: dict[str, bool] = _checked(reply)["limits"]
        """Whether the process is kept from the `network`, from other `files`, and from `processes` that outlive it."""

    def _ask(self, line: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """Return the reply to a line; None if there is none in time."""
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None and replies is not None
        try:
            requests.write(json.dumps(line).encode() + b"\n")
            requests.flush()
        except BrokenPipeError:
            return None
        received, deadline = b"", time.monotonic() + seconds
        poll = select.poll()
        poll.register(replies, select.POLLIN)
        while not received.endswith(b"\n"):
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            chunk = os.read(replies.fileno(), 65_536) if ready else b""
            if not chunk:
                return None
            received += chunk
        return _read_reply(received)


def _read_reply(line: bytes) -> dict[str, Any] | None:
    """Return a reply; None if a function has written something else to the pipe."""
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) and reply.keys() & {"values", "limits", "error"} else None


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply. UserError if it is an error of the user's."""
    if "error" in reply:
        raise UserError(reply["error"])
    return reply


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
