"""The earlier answers in an accepted call: they are shown and not trained, unless a person accepted them too.

A request of a conversation holds all earlier answers of the model. Accepting the last one accepts none of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ft_pipeline.inbox.traffic import LoggedCall, LoggedFeedback
from ft_pipeline.tables.formats.read_turns import read_turns
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.openai_log import read_log
from ft_pipeline.tables.traces.threads import answers_with_prefix


@dataclass(frozen=True)
class Answers:
    """Answers that people accepted, each with the turns before it."""

    keys: frozenset[str]

    @classmethod
    def of_accepted(cls, calls: Iterable[tuple[LoggedCall, LoggedFeedback]]) -> "Answers":
        """Return the answers of accepted calls: the correction if there is one, else that of the model if it is not
        accepted as a bad one."""
        keys = set()
        for call, logged in calls:
            read = read_log(call.document)
            is_bad = logged.feedback.rating == "down" and logged.feedback.correction is None
            if not isinstance(read, Fault) and not is_bad:
                found = _keys([*read.messages, logged.feedback.correction or read.answer])
                keys |= set(found[-1:])
        return cls(frozenset(keys))


def without_training_of_others(document: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """Return a logged call in which the earlier answers that are not among `answers` have the weight 0.

    The document itself is returned if it has none.
    """
    request, read = document.get("request"), read_log(document)
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list) or isinstance(read, Fault):
        return document
    messages = request["messages"]
    places = [
        place for place, turn in enumerate(messages) if isinstance(turn, dict) and turn.get("role") == "assistant"
    ]
    keys = _keys(read.messages)
    is_known = len(keys) == len(places)
    shown = {place for number, place in enumerate(places) if not is_known or keys[number] not in answers.keys}
    if not shown:
        return document
    turns = [{**turn, "weight": 0} if place in shown else turn for place, turn in enumerate(messages)]
    return {**document, "request": {**request, "messages": turns}}


def _keys(turns: list[Any]) -> list[str]:
    """Return the key of each answer among unread turns; an empty list if they cannot be read."""
    messages = read_turns(turns, Sidecar())
    return [] if isinstance(messages, Fault) else [key for _, key in answers_with_prefix(messages)]
