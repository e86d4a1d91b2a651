"""How two specs of one step differ: inputs, settings, the step's code, libraries, the seed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

What = Literal["input", "setting", "code", "library", "seed"]
MAX_SHOWN = 3
"""Number of differences of one kind that a text names. The others are counted."""
MAX_LETTERS = 40
"""A longer value is not shown."""


class _Absent:
    """The value of a key that one of the specs does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """One key in which two specs differ."""

    what: What
    key: str
    """The name of an input or library, or the place of a setting: `training.learning_rate`. Empty for code and seed."""
    before: Any
    now: Any

    @property
    def comes_with_the_version(self) -> bool:
        """Whether another version of this package or of a library makes it: code, libraries, and settings that only
        one of the versions knows."""
        return self.what in ("code", "library") or (self.what == "setting" and ABSENT in (self.before, self.now))

    def text(self) -> str:
        """Return the key, and the values if they are short."""
        values = [_shown(value) for value in (self.before, self.now)]
        if self.what != "input" and None not in values:
            return f"{self.key} {values[0]} → {values[1]}".strip()
        return self.key + (" (new)" if self.before is ABSENT else " (gone)" if self.now is ABSENT else "")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return how the spec `now` differs from `before`. Both are in their JSON form."""
    found = [Difference("input", *change) for change in _changes(before["inputs"], now["inputs"])]
    found += [Difference("setting", *change) for change in _nested_changes(before["config"], now["config"], "")]
    versions = [before["versions"], now["versions"]]
    for key, earlier, later in _changes(*versions):
        found.append(
            Difference("code", "", earlier, later) if key == "code" else Difference("library", key, earlier, later)
        )
    if before["seed"] != now["seed"]:
        found.append(Difference("seed", "", before["seed"], now["seed"]))
    return found


def describe(found: list[Difference]) -> str:
    """Return a short text, such as `new data in alpaca; settings changed: training.seed 1 → 2; torch 2.8 → 2.9`."""
    parts = []
    for what, start in (("input", "new data in "), ("setting", "settings changed: "), ("library", "")):
        if texts := [difference.text() for difference in found if difference.what == what]:
            more = f" and {len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
            parts.append(start + ", ".join(texts[:MAX_SHOWN]) + more)
    for what, name in (("code", "code version"), ("seed", "seed")):
        parts += [f"{name} {difference.text()}" for difference in found if difference.what == what]
    return "; ".join(parts)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*before, *now}):
        earlier, later = before.get(key, ABSENT), now.get(key, ABSENT)
        if earlier != later:
            yield key, earlier, later


def _nested_changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key, earlier, later in _changes(before, now):
        if isinstance(earlier, dict) and isinstance(later, dict):
            yield from _nested_changes(earlier, later, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", earlier, later


def _shown(value: Any) -> str | None:
    """Return a value as text; None if it is too long, or has parts."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value) if isinstance(value, str | int | float | _Absent) else None
    return text if text is not None and len(text) <= MAX_LETTERS and "\n" not in text else None
