"""Metrics of the calls of tools in an answer, against those of the reference.

As in the Berkeley Function Calling Leaderboard, calls that may run in parallel are compared in any order, and an answer
without calls is right where the reference has none. There is no partial credit: a call with one wrong argument does
something else. Arguments are compared as JSON values, or by the rules of `evaluation.call_arguments`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.json_fields import Rule, same_values, value_at
from ft_pipeline.models.tool_call_values import parse_json
from ft_pipeline.models.tool_calls import Call, same_calls_in_any_order
from ft_pipeline.settings.evaluation import CALL_METRICS

CALL_ITEMS = "call_items"
"""Column of a sample: 1 if its calls are scored, else 0. A model's value is the mean over the items with 1."""


def call_metrics(item: Item, calls: Sequence[Call], rules: Mapping[str, Rule] | None = None) -> dict[str, float]:
    """Return CALL_ITEMS and every metric of CALL_METRICS (0 or 1) for the calls in one answer.

    rules: by `TOOL.ARGUMENT`, how an argument is compared; the others exactly.
    """
    if not item.uses_tools:
        return {CALL_ITEMS: 0.0, **dict.fromkeys(CALL_METRICS, 0.0)}
    expected = item.calls
    names, expected_names = _names(calls), _names(expected)
    return {
        CALL_ITEMS: 1.0,
        "call_names": float(Counter(names) == Counter(expected_names)),
        "call_arguments": float(_same_calls(calls, expected, rules or {})),
        "call_order": float(names == expected_names),
    }


def check_rules(rules: Mapping[str, Rule], items: Sequence[Item]) -> None:
    """Raise UserError if no reference calls a tool with the argument of a rule."""
    calls = [call for item in items for call in item.calls]
    for path in rules:
        found = (
            value_at(_arguments(call), path.removeprefix(f"{call['name']}.")) for call in calls if _is_of(path, call)
        )
        if all(value is None for value in found):
            raise UserError(
                f"evaluation.call_arguments: no reference calls a tool with the argument {path!r}. Remove it, or "
                "correct the name of the tool or of the argument."
            )


def _same_calls(calls: Sequence[Call], expected: Sequence[Call], rules: Mapping[str, Rule]) -> bool:
    """Return whether the calls are the expected ones, in any order. Each is matched with the first that it equals."""
    if not rules:
        return same_calls_in_any_order(calls, expected)
    rest = list(calls)
    for reference in expected:
        match = next((call for call in rest if _same_call(call, reference, rules)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _same_call(call: Call, reference: Call, rules: Mapping[str, Rule]) -> bool:
    found, expected = _arguments(call), _arguments(reference)
    if call["name"] != reference["name"] or found is None or expected is None:
        return same_calls_in_any_order([call], [reference])
    own = {path.removeprefix(f"{call['name']}."): rule for path, rule in rules.items() if _is_of(path, call)}
    return same_values(expected, found, own)


def _is_of(path: str, call: Call) -> bool:
    return path.startswith(f"{call['name']}.")


def _arguments(call: Call) -> dict[str, Any] | None:
    """Return the arguments of a call; None if they are no JSON object."""
    try:
        arguments = parse_json(call["arguments"])
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _names(calls: Sequence[Mapping[str, str]]) -> list[str]:
    return [call["name"] for call in calls]
