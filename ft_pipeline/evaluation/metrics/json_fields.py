"""JSON answers, compared with the reference field by field.

The rules: a field that both have is right or wrong, and a text may be partly right. A field that only the reference has
is missing, and wrong. A field that only the answer has is extra, and wrong. A field that neither has does not count;
`null` is the same as none. Keys that are no field of the settings do not count where the reference has them, and are
extra where it does not. An answer without JSON misses every field.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.definitions import SHARE_OF_FIELDS, Metric, chrf
from ft_pipeline.evaluation.metrics.json_text import find_object, is_object
from ft_pipeline.evaluation.metrics.project_metric import ProjectMetric
from ft_pipeline.models.tool_call_values import comparable
from ft_pipeline.settings.checks import ALL_FIELDS

RIGHT, WRONG, MISSING, EXTRA = "right", "wrong", "missing", "extra"
OUTCOMES = "fields"
"""Name of the column of outcomes: `NAME/fields`, a JSON object from field to RIGHT, WRONG, MISSING or EXTRA, or to how
right a text is, from 0 to 1."""
_ROUNDING = 1e-9
"""Of numbers: 0.1 + 0.2 is within 0 of 0.3."""

Outcome = str | float
Rule = str | Mapping[str, float]
"""As FieldRule is written in JSON."""


class FieldsCheck(ProjectMetric):
    """Compares the fields of JSON answers with those of the references."""

    def __init__(self, name: str, fields: Mapping[str, Rule]) -> None:
        super().__init__(name)
        self.fields = fields

    @property
    def definitions(self) -> dict[str, Metric]:
        return {
            self.name: Metric(
                self.name, False, SHARE_OF_FIELDS, "fields with the reference's values, of those of an answer"
            ),
            f"{self.name}/{ALL_FIELDS}": Metric(
                f"{self.name}, all fields", False, "share", "answers whose fields all have the reference's values"
            ),
        }

    def score(self, item: Item, answer: str) -> dict[str, Any]:
        found = find_object(answer)
        outcomes = compare_fields(find_object(item.reference) or {}, found, self.fields)
        values = list(map(credit, outcomes.values())) or [float(found is not None)]  # there may be nothing to find
        has_fault = found is None or any(isinstance(value, str) and value != RIGHT for value in outcomes.values())
        return {
            self.name: fmean(values),
            f"{self.name}/{ALL_FIELDS}": float(not has_fault),
            f"{self.name}/{OUTCOMES}": json.dumps(outcomes, ensure_ascii=False),
        }

    def check_references(self, items: Sequence[Item], all_items: Sequence[Item]) -> None:
        fix = "Correct these rows, give these answers the weight 0, or remove the metric."
        self.check_each(items, lambda item: not is_object(item.reference), "are no JSON objects", fix)
        references = [found for item in all_items if (found := find_object(item.reference)) is not None]
        for path, rule in self.fields.items():
            values = [value for reference in references if (value := value_at(reference, path)) is not None]
            if not values:
                known = ", ".join(dict.fromkeys(path for reference in references[:100] for path in _paths(reference)))
                raise self.error(
                    f"no reference has the field {path!r}",
                    f"Remove it, or correct its path. The first ones have {known}.",
                )
            for value in values:
                if expected := _unfit(value, rule):
                    raise self.error(
                        f"the field {path!r} is {value!r} in a reference, which is {expected}",
                        "Correct the row, or compare the field as `exact`.",
                    )


def compare_fields(
    reference: Mapping[str, Any], answer: Mapping[str, Any] | None, fields: Mapping[str, Rule]
) -> dict[str, Outcome]:
    """Return the outcome of each field that counts, the extra ones last."""
    outcomes: dict[str, Outcome] = {}
    for path, rule in fields.items():
        expected, found = value_at(reference, path), value_at(answer, path)
        if expected is None and found is None:
            continue
        if expected is None or found is None:
            outcomes[path] = EXTRA if expected is None else MISSING
        else:
            outcomes[path] = _compare(expected, found, rule)
    return outcomes | dict.fromkeys(_invented(answer or {}, reference, fields), EXTRA)


def credit(outcome: Outcome) -> float:
    """Return how right a field is, from 0 to 1."""
    return float(outcome == RIGHT) if isinstance(outcome, str) else outcome


def same_values(reference: Mapping[str, Any], answer: Mapping[str, Any], fields: Mapping[str, Rule]) -> bool:
    """Return whether two objects have the same values: of the fields by their rules, of the others exactly."""
    outcomes = compare_fields(reference, answer, fields)
    others = [comparable(_without(dict(value), fields)) for value in (reference, answer)]
    return all(outcome == RIGHT for outcome in outcomes.values()) and others[0] == others[1]


def _without(value: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return an object without the values at some paths, and without objects that are empty then."""
    for path in paths:
        first, _, rest = path.partition(".")
        if not rest:
            value = {key: inner for key, inner in value.items() if key != first}
        elif isinstance(value.get(first), dict):
            inner = _without(value[first], [rest])
            value = {**value, first: inner} if inner else {key: kept for key, kept in value.items() if key != first}
    return value


def value_at(value: Any, path: str) -> Any:
    """Return the value at a dotted path, in which a number is a position in a list; None if there is none."""
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _compare(expected: Any, found: Any, rule: Rule) -> Outcome:
    name, limit = (rule, None) if isinstance(rule, str) else next(iter(rule.items()))
    if name == "number":
        numbers = [_number(value) for value in (expected, found)]
        is_right = None not in numbers and _are_near(numbers[0] or 0.0, numbers[1] or 0.0, limit or 0.0)
    elif name == "set":
        is_right = isinstance(found, list) and _members(expected) == _members(found)
    elif name == "text":
        likeness = chrf(str(expected).strip(), str(found).strip()) if isinstance(found, str) else 0.0
        if limit is None:
            return likeness / 100
        is_right = likeness >= limit
    else:
        is_right = _plain(expected) == _plain(found)
    return RIGHT if is_right else WRONG


def _are_near(first: float, second: float, tolerance: float) -> bool:
    return abs(first - second) <= tolerance + _ROUNDING * max(abs(first), abs(second))


def _unfit(value: Any, rule: Rule) -> str | None:
    """Return why a reference's value cannot be compared by a rule; None if it can."""
    name = rule if isinstance(rule, str) else next(iter(rule))
    if name == "number" and _number(value) is None:
        return "no number"
    if name == "set" and not isinstance(value, list):
        return "no list"
    return "no text" if name == "text" and not isinstance(value, str) else None


def _number(value: Any) -> float | None:
    """Return a number, which may be written as a text ("12.50"); None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _members(value: Sequence[Any]) -> set[str]:
    return set(map(_plain, value))


def _plain(value: Any) -> str:
    """Return a text that equal values share: white space around texts and the form of numbers do not count."""
    return comparable(value.strip() if isinstance(value, str) else value)


def _paths(value: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Yield the paths of the values in an object that are no objects."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _paths(inner, f"{before}{key}.")
        elif inner is not None:
            yield f"{before}{key}"


def _invented(answer: Mapping[str, Any], reference: Mapping[str, Any], fields: Mapping[str, Rule]) -> list[str]:
    """Return the paths in the answer that neither the reference nor the settings have."""

    def is_known(path: str) -> bool:
        inside = any(path.startswith(f"{field}.") or field == path or field.startswith(f"{path}.") for field in fields)
        return inside or value_at(reference, path) is not None

    return [path for path in _paths(answer) if not is_known(path)]
