"""A settings file of another trainer: it remembers which of its keys were read."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.tables.reading.describe import shorten

MAX_SHOWN = 100
"""Number of characters of a list or a mapping that a report shows."""
MAX_BYTES = 8 << 20
"""Maximum size of a settings file. dataset_info.json of a large collection has some 20 kB."""


class NotTakenOver(Exception):
    """An experiment or a data set cannot be taken over. The message says why and what to do, in two sentences."""


class TheirSettings:
    """The keys of one settings file. A key that is null counts as absent."""

    def __init__(self, document: dict[str, Any], name: str) -> None:
        self.name = name
        """Name of the file, for messages."""
        self._document = {str(key): value for key, value in document.items()}
        self._read: set[str] = set()

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, and mark the key as read."""
        self._read.add(key)
        value = self._document.get(key)
        return default if value is None else value

    def has(self, key: str) -> bool:
        """Return whether the file sets a key."""
        return self._document.get(key) is not None

    def number(self, key: str, default: float | None = None) -> float | None:
        """Return a number. A text that is a number is one too: YAML reads `2e-4` as a text. NotTakenOver if it is
        neither."""
        value = self.take(key)
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise NotTakenOver(f"`{key}` is {shorten(str(value))}, which is not a number. Correct it and import again.")
        return number

    def whole(self, key: str, default: int | None = None) -> int | None:
        """Return a whole number. NotTakenOver for any other value."""
        number = self.number(key)
        if number is None:
            return default
        if number != int(number):
            raise NotTakenOver(f"`{key}` is {number:g}, which is not a whole number. Correct it and import again.")
        return int(number)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a yes or no. Texts such as "true" count, and `auto` as no."""
        value = self.take(key)
        if value is None:
            return default
        return value.strip().lower() in ("true", "yes", "on", "1") if isinstance(value, str) else bool(value)

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a text. NotTakenOver for any other value."""
        value = self.take(key, default)
        if value is not None and not isinstance(value, str):
            raise NotTakenOver(f"`{key}` is {shorten(str(value))}, which is not a text. Correct it and import again.")
        return value

    def say(self, key: str) -> str:
        """Return a key with its value as a line of their file."""
        return f"{key}: {describe(self._document.get(key))}"

    def present(self, keys: Iterable[str]) -> list[str]:
        """Return those of the keys that are set, and mark them as read."""
        names = [key for key in keys if key in self._document]
        self._read.update(names)
        return [name for name in names if self._document[name] is not None]

    def present_with(self, prefixes: tuple[str, ...]) -> list[str]:
        """Return the unread keys that begin with one of the prefixes, and mark them as read."""
        return self.present([key for key in self.unread() if key.startswith(prefixes)])

    def unread(self) -> list[str]:
        """Return the keys that were not read so far."""
        return [key for key in self._document if key not in self._read]


def describe(value: Any) -> str:
    """Return a value on one line, as YAML or JSON writes it, cut off after some characters."""
    if isinstance(value, str):
        return shorten(without_secrets(value), 60)[1:-1]
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = str(value)
    text = without_secrets(text)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def without_secrets(text: str) -> str:
    """Return a text in which addresses have no user name, no password and no query, which may be a signature."""
    return re.sub(r"(\w://[^\s\"'?]*)\?[^\s\"']*", r"\1?…", re.sub(r"(\w://)[^/@\s]*@", r"\1…@", text))


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file. UserError if it cannot be read."""
    text = _read_text(path)
    try:
        return load_bounded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{path.name} is not valid YAML{where} ({problem}). Correct it and import again.") from None
    except ValueError:
        raise UserError(f"{path.name} is not a plain YAML file. Correct it and import again.") from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. UserError if it cannot be read."""
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        message = f"{path.name} is not valid JSON ({first_line(error)}). Correct it and import again."
        raise UserError(message) from None


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path.name} is larger than 8 MiB. Name a settings file.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not UTF-8. Save it as UTF-8 and import again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
