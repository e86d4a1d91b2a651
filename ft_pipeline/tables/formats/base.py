"""Shared by all formats: the type of a converted row, and the faults that any row can have."""

from collections.abc import Callable
from typing import Any

from ft_pipeline.tables.reading.describe import describe_keys, describe_value
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault

_SIGNS = {
    "alpaca": frozenset({"instruction"}),
    "sharegpt": frozenset({"conversations", "messages"}),
    "text": frozenset({"text"}),
    "preferences": frozenset({"chosen", "rejected"}),
}
FORGOTTEN = Fault("excluded", "forgotten on request")
Record = tuple[Any, ...]
Converter = Callable[[dict[str, Any], Sidecar], Record | Fault]


def other_format(value: dict[str, Any], data_format: str) -> Fault | None:
    """The fault of a row with the keys of another format, or None. The row has none of the keys of `data_format`."""
    for name, signs in _SIGNS.items():
        if name != data_format and signs & value.keys():
            keys = describe_keys(value)
            return Fault(
                "wrong_format",
                f"a row of the {name} format (it has {keys}), not of {data_format}; move it to data/raw/{name}",
            )
    return None


def not_text(value: dict[str, Any], names: tuple[str, ...]) -> Fault | None:
    for name in names:
        if not isinstance(value.get(name), str | None):
            return Fault("wrong_type", f"`{name}` is {describe_value(value[name])}; it must be a text")
    return None
