"""Compare the prompts of a form with those of the chat template, token by token, on conversations of many kinds."""

from collections.abc import Iterator, Sequence
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.prompt_form import PromptForm, jinja, not_expressible
from ft_pipeline.tables.formats.turns import Message

PROBE_TEXTS = (
    "My package is late.",
    "",
    "{{ .System }} {{- end }} {% raw %} {{ messages }} }} {",
    "\"double\" 'single' `back` \"\"\"three\"\"\" '''three''' \\ \\n \\u0041",
    "first\nsecond\n\n\nthird\ttabbed  twice",
    "São Paulo, Ελλάδα, 東京, مرحبا, 👩‍💻, 5\u00a0°C and\u2028a line",
    "<b>&amp;</b> <s> </s> [INST] <<SYS>> ### user: assistant: system",
    "user",
    "a " * 300 + "b",
)
"""Texts that a quotation, an escape or a condition of a template could change. None begins or ends with white space,
which Ollama cannot remove."""
_SHOWN_CHARACTERS = 40


def probe_conversations() -> Iterator[list[Message]]:
    """Yield conversations that end with the user: each text in each role, with and without a system prompt, and of
    one to nine turns. None has turns that Ollama merges or moves."""
    for text in PROBE_TEXTS:
        yield _talk(text)
        yield _talk("Where is it?", text, "Thanks.")
        yield _talk("Where is it?", "In Lyon.", text)
        yield _talk("Where is it?", system=text)
        yield _talk(text, text, text, system=text)
    for count in (1, 3, 5, 7, 9):
        turns = [f"Turn {index}." for index in range(count)]
        yield _talk(*turns)
        yield _talk(*turns, system="Be brief.")
    greeting = {"role": "assistant", "content": "How can I help?"}
    yield [greeting, *_talk("Where is it?")]
    yield [{"role": "system", "content": "Be brief."}, greeting, *_talk("Where is it?")]


def require_same_tokens(tokenizer: Any, form: PromptForm, conversations: Iterator[list[Message]]) -> None:
    """Raise UserError, with the first difference, if a prompt of the form has other tokens than the chat template's.

    A conversation that the template rejects is not compared.
    """
    for messages in conversations:
        expected = jinja(tokenizer, messages)
        if expected is None:
            continue
        try:
            rendered = form.render(messages)
        except ValueError as error:
            raise UserError(not_expressible(str(error))) from error
        if rendered != expected and _token_ids(tokenizer, rendered) != _token_ids(tokenizer, expected):
            raise UserError(not_expressible(_difference(messages, rendered, expected)))


def _talk(*texts: str, system: str | None = None) -> list[Message]:
    """Return a conversation of these texts, which begins with the user."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return [*([] if system is None else [{"role": "system", "content": system}]), *turns]


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered prompt, as in training: control tokens are read as such, and none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _difference(messages: Sequence[Message], rendered: str, expected: str) -> str:
    roles = ", ".join(message["role"] for message in messages)
    pairs = zip(rendered, expected, strict=False)
    begin = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(rendered), len(expected)))
    other, own = (text[begin : begin + _SHOWN_CHARACTERS] for text in (rendered, expected))
    return f"for the roles {roles} it writes {own!r}, where Ollama would write {other!r}"
