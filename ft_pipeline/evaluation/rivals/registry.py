"""Every rival, by name. Importing this loads the libraries of models."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.rivals import calibrated, endpoint, log, majority, nearest_answer, teacher, word_model
from ft_pipeline.evaluation.rivals.questions import Answered, Questions

RIVALS: Mapping[str, Callable[[Questions], Iterable[Answered]]] = {
    "endpoint": endpoint.answers,
    "log": log.answers,
    "teacher": teacher.answers,
    majority.NAME: majority.answers,
    nearest_answer.NAME: nearest_answer.answers,
    word_model.NAME: word_model.answers,
    calibrated.NAME: calibrated.answers,
}
"""A further one is a file in this folder, and a line here."""


def rivals_of(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the rivals that a job scores."""
    if "rivals" in config:
        return list(config["rivals"])
    if "teacher" in config:
        return ["teacher"]
    return ["log" if config["contender"].get("answers") else "endpoint"]
