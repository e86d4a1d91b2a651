"""Take apart an answer that arrives in pieces: reasoning, text and calls of tools, without control tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.models.chat import render, special_tokens, stop_strings, writes_tools
from ft_pipeline.models.tool_call_readers import Call, Reading
from ft_pipeline.models.tool_call_values import declared_tools
from ft_pipeline.models.tool_calls import CallFamily, call_family, without_control_tokens

_THINK, _END_OF_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Delta:
    """A new part of a turn."""

    content: str = ""
    reasoning: str = ""


@dataclass(frozen=True)
class AnswerForm:
    """How answers of a model are written."""

    family: CallFamily | None
    """None: it writes no calls, or not in a known way."""
    writes_tools: bool
    begins_in_reasoning: bool
    """Whether a prompt ends with `<think>`, so that an answer begins with reasoning."""
    control_tokens: tuple[str, ...]
    stops: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "AnswerForm":
        """Return the form that the tokenizer's chat template has."""
        prompt = render(tokenizer, [{"role": "user", "content": "Hello"}], add_generation_prompt=True)
        return cls(
            call_family(tokenizer),
            writes_tools(tokenizer),
            prompt.rstrip().endswith(_THINK),
            special_tokens(tokenizer),
            tuple(stop_strings(tokenizer)),
        )


class TurnStream:
    """Reads one answer. Text is passed on as soon as it cannot be a part of a call any more."""

    def __init__(self, form: AnswerForm, tools: str | None) -> None:
        """tools: the declared tools as JSON text; None: calls are not read."""
        self._form, self._tools = form, tools
        family = form.family
        self._reads = family is not None and (tools is not None or family.writes_channels)
        self._openings = family.openings if family is not None and self._reads else ()
        self._waiting = ""
        self._mode = "reasoning" if form.begins_in_reasoning else "start"
        self._has_content = False

    def feed(self, piece: str) -> list[Delta]:
        """Return the new parts that are certain after one more piece of the text."""
        self._waiting += piece
        deltas: list[Delta] = []
        if self._mode == "start":
            self._start()
        if self._mode == "reasoning":
            deltas += self._feed_reasoning()
        if self._mode == "content":
            deltas += self._feed_content()
        return [delta for delta in deltas if delta != Delta()]

    def finish(self) -> tuple[list[Delta], list[Call]]:
        """Return the last parts, and the calls, when the text has ended."""
        text, self._waiting = self._waiting, ""
        if self._mode == "reasoning":
            return self._cleaned(Delta(reasoning=text.rstrip())), []
        family = self._form.family
        reads = self._reads and family is not None
        reading = family.read(text, declared_tools(self._tools)) if reads and family else Reading(text, [])
        deltas = self._cleaned(Delta(reasoning=reading.reasoning))
        content = self._clean(reading.content).strip()
        if content and self._has_content:
            content = text[: len(text) - len(text.lstrip())] + content
        return [*deltas, *([Delta(content)] if content else [])], reading.calls

    def _start(self) -> None:
        """Find out whether the text begins with reasoning."""
        text = self._waiting.lstrip()
        if text.startswith(_THINK):
            self._mode, self._waiting = "reasoning", text[len(_THINK) :].lstrip()
        elif not _THINK.startswith(text):
            self._mode = "content"

    def _feed_reasoning(self) -> list[Delta]:
        end = self._waiting.find(_END_OF_THINK)
        if end >= 0:
            text, self._waiting = self._waiting[:end].rstrip(), self._waiting[end + len(_END_OF_THINK) :].lstrip()
            self._mode = "content"
            return self._cleaned(Delta(reasoning=text))
        certain = _certain_length(self._waiting, (_END_OF_THINK,))
        text, self._waiting = self._waiting[:certain], self._waiting[certain:]
        return self._cleaned(Delta(reasoning=text))

    def _feed_content(self) -> list[Delta]:
        if not self._has_content:
            self._waiting = self._waiting.lstrip()
            if self._reads and self._form.family and self._form.family.may_be_whole_text and self._waiting[:1] in "{":
                return []  # the whole text may be a call
        calls = [self._waiting.find(mark) for mark in self._openings if mark in self._waiting]
        certain = min(calls) if calls else _certain_length(self._waiting, (*self._openings, *self._form.control_tokens))
        cleaned = self._clean(self._waiting[:certain])
        text = cleaned.rstrip()  # white space at the end of a turn does not count
        self._waiting = cleaned[len(text) :] + self._waiting[certain:]
        self._has_content = self._has_content or bool(text)
        return [Delta(text)]

    def _cleaned(self, delta: Delta) -> list[Delta]:
        cleaned = replace(delta, content=self._clean(delta.content), reasoning=self._clean(delta.reasoning))
        return [] if cleaned == Delta() else [cleaned]

    def _clean(self, text: str) -> str:
        return without_control_tokens(self._form.control_tokens, text)


def _certain_length(text: str, marks: Sequence[str]) -> int:
    """Return how much of a text is certainly not the beginning of one of the marks that continues in the next piece."""
    longest = max(map(len, marks), default=1)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks if len(mark) > length):
            return len(text) - length
    return len(text)


def read_whole(form: AnswerForm, text: str, tools: str | None) -> tuple[Delta, list[Call]]:
    """Return a complete answer taken apart, as TurnStream does."""
    stream = TurnStream(form, tools)
    deltas = stream.feed(text)
    last, calls = stream.finish()
    parts = [*deltas, *last]
    content = "".join(part.content for part in parts).strip()
    return Delta(content, "".join(part.reasoning for part in parts).strip()), calls
