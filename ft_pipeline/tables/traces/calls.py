"""One call of a model, whatever logged it: its turns, its answer, how it ended, and what people said of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ft_pipeline.tables.formats.read_turns import read_turns
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.tables.traces.threads import answers_with_prefix

Turn = dict[str, Any]
"""A turn in OpenAI's shape, unread."""
_CUT_OFF = Fault("answer_cut_off", "the answer was cut off at its length limit; remove the call")
_FILTERED = Fault("failed_call", "the provider's filter stopped the answer; remove the call")
_ENDED_BADLY = {"length": _CUT_OFF, "max_tokens": _CUT_OFF, "MAX_TOKENS": _CUT_OFF, "incomplete": _CUT_OFF}
_ENDED_BADLY |= {"content_filter": _FILTERED, "SAFETY": _FILTERED, "error": Fault("failed_call", "the call failed")}
"""How a call ended → why its answer is not used."""
_RATED_UP = "rated up"
"""The tag of an answer that a person rated up."""


@dataclass
class Feedback:
    """What people said of an answer. What a judge or a program said is not in it."""

    rating: str | None = None
    """`up`, `down` or None."""
    correction: Turn | None = None
    """The answer as it should have been."""

    def merge(self, other: "Feedback") -> "Feedback":
        """Return both, of which the second one is the newer."""
        return Feedback(other.rating or self.rating, other.correction or self.correction)


@dataclass
class ModelCall:
    """One call: what the model got, and its answer."""

    messages: list[Any]
    """The turns before the answer."""
    answer: Turn | None
    tools: Any = None
    """The declared tools, unread."""
    identity: str = ""
    """The id by which feedback names the call."""
    session: str | None = None
    """What all calls of one conversation, or of one person's visit, have in common."""
    workload: str | None = None
    """The part of the application that made the call."""
    finish_reason: str | None = None
    error: str | None = None
    """Why the call failed."""
    feedback: Feedback = field(default_factory=Feedback)

    @property
    def tags(self) -> list[str] | None:
        """The labels of its row."""
        labels = [f"workload: {self.workload}"] if self.workload else []
        return [*labels, *([_RATED_UP] if self.feedback.rating == "up" else [])] or None


def conversation_of(call: ModelCall, sidecar: Sidecar, distrusted: Collection[str]) -> dict[str, Any] | Fault:
    """Return the raw chat row of a call, or why its answer is not used.

    A corrected answer takes the place of the model's. distrusted: the keys (`distrusted_key`) of answers that people
    corrected or rated down. Where they are earlier turns of other calls, they are shown and not trained.
    """
    fault = _fault_of(call)
    if fault is not None:
        return fault
    turns = [*call.messages, call.feedback.correction or call.answer]
    for position, key in _answers(turns, sidecar) if distrusted else ():
        if key in distrusted and position < len(call.messages):
            turns[position] = {**turns[position], "weight": 0}
    row = {"messages": turns, "tools": call.tools, "session": call.session, "tags": call.tags}
    return row | {"call_id": call.identity or None}


def pair_of(call: ModelCall) -> dict[str, Any] | None:
    """Return the raw preference row of a call whose answer a person corrected; None for other calls."""
    if call.feedback.correction is None or call.answer is None or call.error:
        return None
    prompt = {"messages": call.messages, "tools": call.tools}
    outputs = {"preferred_output": [call.feedback.correction], "non_preferred_output": [call.answer]}
    return {"input": prompt, **outputs, "tags": call.tags}


def thumb_of(call: ModelCall) -> dict[str, Any] | None:
    """Return the raw feedback row of a call whose answer a person rated; None for other calls.

    A cut-off answer is left out: a model should learn neither to write nor to avoid such an answer. So is a thumb up on
    an answer that was also corrected.
    """
    rating = call.feedback.rating
    is_whole = not (call.error or call.answer is None or call.finish_reason in _ENDED_BADLY)
    if rating is None or not is_whole or (rating == "up" and call.feedback.correction is not None):
        return None
    tags = [tag for tag in call.tags or () if tag != _RATED_UP]
    return {"messages": [*call.messages, call.answer], "tools": call.tools, "label": rating, "tags": tags}


def _fault_of(call: ModelCall) -> Fault | None:
    if call.error:
        return Fault("failed_call", f"the call failed: {call.error[:120]}; it has no answer to learn")
    if call.feedback.correction is not None:
        return None
    if isinstance(call.finish_reason, str) and call.finish_reason in _ENDED_BADLY:
        return _ENDED_BADLY[call.finish_reason]
    if call.answer is None:
        return Fault("no_content", "the answer was not logged; turn on the capture of content in the tracer")
    if call.feedback.rating == "down":
        return Fault("rated_down", "a person rated the answer down, and nobody corrected it")
    return None


def _answers(turns: list[Any], sidecar: Sidecar) -> list[tuple[int, str]]:
    """Return (position, key) of each answer among unread turns. Equal answers after equal turns have equal keys."""
    messages = read_turns(turns, sidecar)
    return [] if isinstance(messages, Fault) else list(answers_with_prefix(messages))


def distrusted_key(call: ModelCall, sidecar: Sidecar) -> str | None:
    """Return the key of an answer that a person corrected or rated down; None for other calls."""
    if call.answer is None or (call.feedback.correction is None and call.feedback.rating != "down"):
        return None
    answers = _answers([*call.messages, call.answer], sidecar)
    return answers[-1][1] if answers else None


def with_feedback(call: ModelCall, feedback: Mapping[str, Feedback]) -> ModelCall:
    """Return the call with the feedback that names it."""
    more = feedback.get(call.identity)
    return call if more is None else replace(call, feedback=call.feedback.merge(more))
