"""Sentences, commands and tables as a terminal of 80 columns, a log or a pipe needs them."""

import re
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

CHARS_SHOWN = 120
"""Of a text that is shown in one line."""
INDENT = re.compile(r"\s*(?:[·✗✓!…] )?")
"""What a sentence begins with that its further lines leave empty."""


def plain(text: str) -> str:
    """Return user data made safe for a terminal: control characters are visible (also escape sequences), markup is
    literal."""
    return escape("".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text))


def is_terminal(console: Console) -> bool:
    """Return whether a person reads along. FORCE_COLOR, which CI services set, does not make a file a terminal."""
    return console.file.isatty()


def say(console: Console, text: str, indent: int | None = None) -> None:
    """Print a sentence: wrapped between words in a terminal, on one line in a log. Words such as paths stay whole.

    indent: columns that further lines leave empty; by default those before the first word.
    """
    content = Text.from_markup(text, emoji=False)
    if not is_terminal(console):
        console.print(content, soft_wrap=True)
        return
    for paragraph in content.split("\n", allow_blank=True):
        columns = _indent_of(paragraph.plain) if indent is None else indent
        for number, line in enumerate(_wrap(console, paragraph, columns)):
            console.print(Text(" " * columns) + line if number else line, soft_wrap=True)


def _indent_of(paragraph: str) -> int:
    begin = INDENT.match(paragraph)
    return begin.end() if begin else 0


def _wrap(console: Console, paragraph: Text, indent: int) -> Iterable[Text]:
    """Return the lines of a paragraph, the first one with its indent."""
    head, body = paragraph.divide([indent])
    body.overflow = "ignore"  # so that long words stay whole; as an argument of `wrap` it would wrap nothing
    first, *others = lines = body.wrap(console, console.width - indent) or [Text()]
    for line in lines:
        line.rstrip()
    return [head + first, *others]


def say_line(console: Console, text: str) -> None:
    """Print what a person copies, such as a path or a command: on one line, which only the terminal itself breaks."""
    console.print(Text.from_markup(text, emoji=False), soft_wrap=True)


def truncate(text: str) -> str:
    """Return the beginning of a text, as much as is shown."""
    return text if len(text) <= CHARS_SHOWN else text[: CHARS_SHOWN - 1] + "…"
