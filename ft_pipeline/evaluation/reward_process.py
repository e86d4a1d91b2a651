"""The process that computes rewards: `python -m ft_pipeline.evaluation.reward_process`. It reads and writes JSON lines.

The first line is the config (reward_config.reward_config) with the limit `memory_bytes`. Each further line is an
answer: {messages, tools, answer, calls}. A reply is {"values": …} with the value of each rewarded metric, or
{"error": …} with an error of the user's. Functions of the project run here, with limited memory and, where the system
allows it, without network. This is no full sandbox: the process may read the files of the user.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""Linux's CLONE_NEWUSER and CLONE_NEWNET."""
_SIGNAL_OF_PARENTS_DEATH = 1
"""Linux's PR_SET_PDEATHSIG."""


def leave_network() -> bool:
    """Move this process to a network of its own, which reaches nothing. Return whether the system allowed it.

    It must run before the process has a second thread.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    return any(libc.unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK))


def end_with_parent() -> None:
    """Let the system end this process when the training ends, even in a function that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL)


def main() -> None:
    """Answer lines of standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a function prints must not be read as a reply
    has_network = not leave_network()
    end_with_parent()  # a process that changes its user namespace loses this setting
    config = json.loads(sys.stdin.readline())
    with contextlib.suppress(ValueError, OSError):  # not every system can limit memory
        resource.setrlimit(resource.RLIMIT_AS, (config["memory_bytes"],) * 2)
    answer_lines(config, sys.stdin, replies, has_network)


def answer_lines(config: Mapping[str, Any], lines: IO[str], replies: IO[str], has_network: bool) -> None:
    """Write {"network": …} when the metrics are loaded, or an error; then the reply to each line."""
    from ft_pipeline.errors import UserError

    def reply(content: Mapping[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    try:
        rewards = _Rewards(config)
    except UserError as error:
        reply({"error": str(error)})
        return
    reply({"network": has_network})
    for line in lines:
        try:
            reply({"values": rewards.values(json.loads(line))})
        except UserError as error:
            reply({"error": str(error)})


class _Rewards:
    """The rewarded metrics, loaded."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
        from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, answer_metrics, chrf
        from ft_pipeline.settings.evaluation import CALL_METRICS

        self._signs: Mapping[str, float] = config["signs"]
        self._metrics = AnswerMetrics(
            config["evaluation"]["answer_format"],
            config["custom_metrics"],
            any(name in CALL_METRICS for name in self._signs),
            config["call_arguments"],
        )
        _ = self._metrics.custom_definitions  # loads the functions
        self._has_text_metrics = any(name in ANSWER_METRICS for name in self._signs)
        # Libraries are loaded here: that may take longer than an answer may take.
        if self._has_text_metrics:
            answer_metrics("text", "text")
        elif any(entry.get("type") == "json_fields" for entry in config["custom_metrics"].values()):
            chrf("text", "text")

    def values(self, answer: Mapping[str, Any]) -> dict[str, float]:
        """Return the value of each rewarded metric for one answer. Higher is better."""
        from ft_pipeline.evaluation.items import Item

        item = Item("", "", tuple(answer["messages"]), answer["tools"])
        score = self._metrics.score_answer if self._has_text_metrics else self._metrics.check_answer
        scored = score(item, answer["answer"], answer["calls"])
        return {name: sign * float(scored[name]) for name, sign in self._signs.items()}


if __name__ == "__main__":
    main()
