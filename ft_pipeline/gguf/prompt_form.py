"""The form in which a chat template writes turns, found out by rendering: for engines that do not run Jinja."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import render, special_tokens
from ft_pipeline.tables.formats.turns import Message

SystemPlace = Literal["turn", "first_user", "last_user", "ignored", "refused"]
"""Where the system prompt is written: in a turn before the others, or at the beginning of the first or the last turn of
the user. `ignored`: nowhere. `refused`: the template raises an error."""
_SYSTEM = "QXsystemQX"
_USERS = ("QXuseraQX", "QXuserbQX", "QXusercQX")
_ANSWERS = ("QXanswaQX", "QXanswbQX")
_PADDING = " \n"
"""White space around a text, to find out if the template removes it."""
_OTHER_FIRST_TURN = "it writes the first turn in another way than the others"
BETWEEN_MERGED = "\n\n"
"""Ollama writes this between the contents of turns that it merges."""


@dataclass(frozen=True)
class Around:
    """The strings that a template writes before and after a text."""

    before: str = ""
    after: str = ""

    def write(self, text: str) -> str:
        return f"{self.before}{text}{self.after}"


@dataclass(frozen=True)
class PromptForm:
    """What a chat template writes around the texts of a conversation. Prompts end with the header of an answer."""

    user: Around
    assistant: Around
    generation: str
    """The header of the answer, after the last turn."""
    start: str = ""
    """The first text of each prompt: the BOS token, or empty if there is none, or if it is a part of the first turn."""
    system: Around = Around()
    system_place: SystemPlace = "turn"
    default_system: str = ""
    """What takes the place of the system prompt, if there is none."""
    empty_is_none: bool = False
    """Whether an empty system prompt is the same as none."""
    trimmed: frozenset[str] = frozenset()
    """The roles whose texts are written without the white space around them."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt for a conversation of system, user and assistant. Raises ValueError for a system prompt if
        the template rejects it."""
        system, turns = collated(messages)
        if system is not None and self.system_place == "refused":
            raise ValueError("it rejects some system prompts only")
        system_text = self._system_text(system)
        users = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
        place = self._turn_with_system(users, len(turns))
        parts = [self.start, "" if self.system_place in ("first_user", "last_user") else system_text]
        for index, turn in enumerate(turns):
            around = {"user": self.user, "assistant": self.assistant}[turn["role"]]
            parts.append(around.write(f"{system_text if index == place else ''}{self.trim(turn)}"))
        return "".join([*parts, self.generation])

    def without_first(self, token: str) -> "PromptForm | None":
        """Return the form of the prompts without the token that each begins with; None if there is no such form."""
        if token and self.start.startswith(token):
            return replace(self, start=self.start.removeprefix(token))
        begins_with_user = self.system_place == "first_user" or not (self.default_system or self.system.before)
        if token and begins_with_user and not self.start and self.user.before.startswith(token):
            # As in Llama 2, each question begins with it. Here, the answer before the question ends with it.
            user = replace(self.user, before=self.user.before.removeprefix(token))
            return replace(self, user=user, assistant=replace(self.assistant, after=self.assistant.after + token))
        return None

    def trim(self, message: Message) -> str:
        """Return the content of a message as the template writes it."""
        return message["content"].strip() if message["role"] in self.trimmed else message["content"]

    def _system_text(self, system: str | None) -> str:
        if system is None or (self.empty_is_none and not system) or self.system_place == "ignored":
            return self.default_system
        return self.system.write(self.trim({"role": "system", "content": system}))

    def _turn_with_system(self, users: Sequence[int], count: int) -> int | None:
        """Return the index of the user's turn in which the system prompt is written."""
        if self.system_place == "first_user":
            return next(iter(users), None)
        return count - 1 if self.system_place == "last_user" and count - 1 in users else None


def collated(messages: Sequence[Message]) -> tuple[str | None, list[dict[str, str]]]:
    """Return (system prompt, turns) as Ollama collates them: all system turns in one text, also those between other
    turns, and consecutive turns of a role merged. The system prompt is None if there is no system turn."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += BETWEEN_MERGED + message["content"]
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    system = [message["content"] for message in messages if message["role"] == "system"]
    return BETWEEN_MERGED.join(system) if system else None, [turn for turn in merged if turn["role"] != "system"]


def prompt_form(tokenizer: Any) -> PromptForm:
    """Return the form of the tokenizer's chat template, not yet compared: see prompt_probes.require_same_tokens.

    Raises UserError, with the reason, if the template writes conversations in no such form.
    """
    talk = _alternating(_USERS, _ANSWERS)
    text = render(tokenizer, talk, add_generation_prompt=True)
    _require_no_date(tokenizer, talk)
    texts = [message["content"] for message in talk]
    first, after_user, after_answer, *others, last = _between(text, texts)
    if others != [after_user, after_answer]:
        raise UserError(not_expressible("it writes a turn in a way that depends on the position"))
    user_after = _whole_tokens(tokenizer, after_user, [_tail(tokenizer, talk[:1]), after_user, last])
    answer_after = _whole_tokens(tokenizer, after_answer, [_tail(tokenizer, talk[:2]), after_answer])
    user = Around(after_answer[len(answer_after) :], user_after)
    assistant = Around(after_user[len(user_after) :], answer_after)
    bos = tokenizer.bos_token or ""
    start = bos if first.startswith(bos) and first.removeprefix(bos).endswith(user.before) else ""
    form = PromptForm(user, assistant, last[len(user_after) :], start)
    return _with_trimmed_roles(tokenizer, _with_system(tokenizer, form, first, text))


def jinja(tokenizer: Any, messages: Sequence[Message], *, generation: bool = True, **variables: Any) -> str | None:
    """Return the conversation rendered by the chat template; None if the template rejects it. variables: those that
    the template sees in addition."""
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation, **variables
        )
    except Exception:  # jinja2's errors, and those that a template raises
        return None


def not_expressible(reason: str) -> str:
    """Return the text of the error for a template without an equal in Ollama's language."""
    return (
        f"This model's chat template cannot be written for Ollama: {reason}. Use `ft serve --engine llama.cpp`, which "
        "runs the template itself."
    )


def _require_no_date(tokenizer: Any, talk: Sequence[Message]) -> None:
    """Raise UserError if the template writes the date, which Ollama can write in one form only."""
    for messages in (talk, [{"role": "system", "content": _SYSTEM}, *talk]):
        if jinja(tokenizer, messages) != jinja(tokenizer, messages, strftime_now=None):  # None cannot be called
            raise UserError(not_expressible("it writes today's date"))


def _with_system(tokenizer: Any, form: PromptForm, first: str, without: str) -> PromptForm:
    """Return the form with what the template writes for a system prompt. first: the text before the first turn's;
    without: the conversation without a system prompt."""
    talk = [{"role": "system", "content": _SYSTEM}, *_alternating(_USERS, _ANSWERS)]
    text = jinja(tokenizer, talk)
    if text is None or _SYSTEM not in text:
        if text not in (None, without):
            raise UserError(not_expressible("it changes the prompt for a system turn whose text it omits"))
        default = _default_before(form, first, form.user.before)
        return replace(form, system_place="refused" if text is None else "ignored", default_system=default)
    turns = [message["content"] for message in talk[1:]]
    if text.find(_SYSTEM) > text.find(turns[-2]):
        return _with_system_in_last_turn(form, first, _between(text, [*turns[:-1], _SYSTEM, turns[-1]]))
    before, after, *_ = _between(text, [_SYSTEM, *turns])
    header = f"{form.start}{form.user.before}"
    if form.user.before and before.startswith(header) and not after.endswith(form.user.before):
        if not first.startswith(header):
            raise UserError(not_expressible(_OTHER_FIRST_TURN))
        system = Around(before[len(header) :], after)
        form = replace(form, system=system, system_place="first_user", default_system=first[len(header) :])
    else:
        system = Around(before[len(form.start) :], _without_end(after, form.user.before))
        form = replace(form, system=system, default_system=_default_before(form, first, form.user.before))
    return _with_empty_system(tokenizer, form, turns)


def _with_system_in_last_turn(form: PromptForm, first: str, between: Sequence[str]) -> PromptForm:
    before, after = between[-3], between[-2]
    header = f"{form.assistant.after}{form.user.before}"
    if first != f"{form.start}{form.user.before}" or not before.startswith(header):
        raise UserError(not_expressible("it writes the last turn in another way than the others"))
    return replace(form, system=Around(before[len(header) :], after), system_place="last_user")


def _with_empty_system(tokenizer: Any, form: PromptForm, turns: Sequence[str]) -> PromptForm:
    talk = [{"role": "system", "content": ""}, {"role": "user", "content": turns[0]}]
    return replace(form, empty_is_none=jinja(tokenizer, talk) != form.render(talk))


def _with_trimmed_roles(tokenizer: Any, form: PromptForm) -> PromptForm:
    """Return the form with the roles whose texts are trimmed. Other changes of white space are not recognized."""
    trimmed: frozenset[str] = frozenset()
    for role in ("system", "user", "assistant"):
        talk = [{"role": "system", "content": _SYSTEM}] if form.system_place not in ("ignored", "refused") else []
        talk += _alternating(_USERS, _ANSWERS)
        padded = [
            {**turn, "content": f"{_PADDING}{turn['content']}{_PADDING}"} if turn["role"] == role else turn
            for turn in talk
        ]
        if padded != talk and jinja(tokenizer, padded) == form.render(talk):
            trimmed |= {role}
    return replace(form, trimmed=trimmed)


def _default_before(form: PromptForm, first: str, header: str) -> str:
    return _without_end(first[len(form.start) :], header)


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise UserError(not_expressible(_OTHER_FIRST_TURN))
    return text[: len(text) - len(end)]


def _alternating(users: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """Return a conversation of these texts. It ends with the user if there is one more question than answers."""
    texts = [text for pair in zip(users, answers, strict=False) for text in pair] + list(users[len(answers) :])
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """Return the parts of a text before, between and after marks in this order. UserError if one is not there once."""
    return list(_parts(text, marks))


def _parts(text: str, marks: Sequence[str]) -> Iterator[str]:
    for mark in marks:
        part, found, text = text.partition(mark)
        if not found or mark in text:
            raise UserError(not_expressible("it leaves out, repeats or moves the text of a turn"))
        yield part
    yield text


def _tail(tokenizer: Any, talk: Sequence[Message]) -> str:
    """Return what the template writes after the last turn, if no answer is to follow."""
    text = jinja(tokenizer, talk, generation=False)
    if text is None:
        raise UserError(not_expressible(f"it rejects a conversation that ends with the {talk[-1]['role']}"))
    return text.rpartition(talk[-1]["content"])[2]


def _whole_tokens(tokenizer: Any, text: str, alternatives: Sequence[str]) -> str:
    """Return the longest common beginning of the alternatives that ends inside no control token of `text`."""
    first, last = min(alternatives), max(alternatives)
    pairs = enumerate(zip(first, last, strict=False))
    end = next((index for index, pair in pairs if pair[0] != pair[1]), len(first))
    for token in special_tokens(tokenizer):
        begin = text.find(token, max(0, end - len(token) + 1)) if token else -1
        if 0 <= begin < end < begin + len(token):
            end = begin
    return text[:end]
