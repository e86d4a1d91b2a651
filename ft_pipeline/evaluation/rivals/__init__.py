"""Rivals: whatever answers the test questions without a model of this project. Only their answers are known, and no
likelihoods. One worker scores them all (score.py), and writes the same files as for every other row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.rivals import endpoint, log, majority, nearest_answer, teacher, word_model
from ft_pipeline.evaluation.rivals.questions import Answered, Questions

RIVALS: Mapping[str, Callable[[Questions], Iterable[Answered]]] = {
    "endpoint": endpoint.answers,
    "log": log.answers,
    "teacher": teacher.answers,
    majority.NAME: majority.answers,
    nearest_answer.NAME: nearest_answer.answers,
    word_model.NAME: word_model.answers,
}
"""A further one is a file in this folder, and a line here."""


def rivals_of(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the rivals that a job scores."""
    if "rivals" in config:
        return list(config["rivals"])
    if "teacher" in config:
        return ["teacher"]
    return ["log" if config["contender"].get("answers") else "endpoint"]
