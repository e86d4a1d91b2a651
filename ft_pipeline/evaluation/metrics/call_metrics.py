"""Metrics of the calls of tools in an answer, against those of the reference.

As in the Berkeley Function Calling Leaderboard, calls that may run in parallel are compared in any order, and an answer
without calls is right where the reference has none. There is no partial credit: a call with one wrong argument does
something else. Arguments are compared as JSON values.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from ft_pipeline.evaluation.items import Item
from ft_pipeline.models.tool_calls import Call, same_calls_in_any_order
from ft_pipeline.settings.evaluation import CALL_METRICS

CALL_ITEMS = "call_items"
"""Column of a sample: 1 if its calls are scored, else 0. A model's value is the mean over the items with 1."""


def call_metrics(item: Item, calls: Sequence[Call]) -> dict[str, float]:
    """Return CALL_ITEMS and every metric of CALL_METRICS (0 or 1) for the calls in one answer."""
    if not item.uses_tools:
        return {CALL_ITEMS: 0.0, **dict.fromkeys(CALL_METRICS, 0.0)}
    expected = item.calls
    names, expected_names = _names(calls), _names(expected)
    return {
        CALL_ITEMS: 1.0,
        "call_names": float(Counter(names) == Counter(expected_names)),
        "call_arguments": float(same_calls_in_any_order(calls, expected)),
        "call_order": float(names == expected_names),
    }


def _names(calls: Sequence[Mapping[str, str]]) -> list[str]:
    return [call["name"] for call in calls]
