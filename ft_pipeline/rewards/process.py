"""The process that computes rewards: `python -m ft_pipeline.rewards.process`. It reads and writes JSON lines.

The first line is the config (config.reward_config) with the limit `memory_bytes`. Each further line is an
answer: {messages, tools, answer, calls}. A reply is {"values": …} with the value of each rewarded metric, null if the
answer is too much for a metric, or {"error": …} with an error of the user's. Functions of the project run here, with
the limits of sandbox.py.
"""

import json
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ft_pipeline.rewards.sandbox import Limits, confine

_LARGEST = 1e6
"""Largest size of a value. The squares of much larger ones have no finite mean."""


def main() -> None:
    """Answer lines of standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a function prints must not be read as a reply
    config = json.loads(sys.stdin.readline())
    limits = confine(Path.cwd(), config["memory_bytes"], _packages(config["custom_metrics"]))
    answer_lines(config, sys.stdin, replies, limits)


def _packages(metrics: Mapping[str, Any]) -> list[str]:
    """Return the installed packages that metrics import."""
    return [entry["function"].partition(".")[0] for entry in metrics.values() if entry.get("distribution")]


def answer_lines(config: Mapping[str, Any], lines: IO[str], replies: IO[str], limits: Limits) -> None:
    """Write {"limits": …} when the metrics are loaded, or an error; then the reply to each line."""
    from ft_pipeline.errors import UserError

    process = os.getpid()

    def reply(content: Mapping[str, Any]) -> None:
        if os.getpid() != process:  # a function has forked, and the copy came out of the function
            os._exit(1)
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    try:
        rewards = _Rewards(config)
    except UserError as error:
        reply({"error": str(error)})
        return
    reply({"limits": vars(limits)})
    for line in lines:
        _seed()
        try:
            reply({"values": rewards.values(json.loads(line))})
        except RecursionError:  # JSON that is nested too deeply
            reply({"values": None})
        except UserError as error:
            reply({"error": str(error)})


def _seed() -> None:
    """Seed the generators that functions use. A reward must not depend on the answers before it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)


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
        from ft_pipeline.errors import UserError
        from ft_pipeline.evaluation.items import Item

        item = Item("", "", tuple(answer["messages"]), answer["tools"])
        score = self._metrics.score_answer if self._has_text_metrics else self._metrics.check_answer
        scored = score(item, answer["answer"], answer["calls"])
        values = {name: sign * float(scored[name]) for name, sign in self._signs.items()}
        for name, value in values.items():
            if abs(value) > _LARGEST:
                raise UserError(f"The reward {name!r} is {value:g}. Return numbers of at most {_LARGEST:,.0f}.")
        return values


if __name__ == "__main__":
    main()
