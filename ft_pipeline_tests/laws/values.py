"""Strategies for any record, made from the type hints of its fields."""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

TEXTS = st.text(max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
PLAIN: dict[Any, SearchStrategy[Any]] = {
    Any: JSON,
    type(None): st.none(),
    bool: st.booleans(),
    int: INTEGERS,
    float: NUMBERS,
    str: TEXTS,
    Path: st.from_regex(r"[a-z]{1,5}", fullmatch=True).map(lambda name: Path("/") / name),
    dict: st.dictionaries(TEXTS, JSON, max_size=2),
}
OF_FIELDS: dict[tuple[str, str], SearchStrategy[Any]] = {
    ("ComparisonRow", "learned_from"): st.sampled_from([None, "preferences", "rewards"]),
}
"""By record and field: strategies of fields whose type hint says less than their docstring."""


def records_of(record: type, **values: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Return a strategy for any object of a record. values: strategies of some of its fields."""
    hints = typing.get_type_hints(record, include_extras=True)
    names = (
        list(record.model_fields)
        if issubclass(record, BaseModel)
        else [entry.name for entry in fields(record) if entry.init]
    )
    values = {field: strategy for (owner, field), strategy in OF_FIELDS.items() if owner == record.__name__} | values
    return st.builds(record, **{name: values[name] if name in values else values_of(hints[name]) for name in names})


def values_of(hint: Any) -> SearchStrategy[Any]:
    """Return a strategy for any value of a type hint."""
    if hint in PLAIN:
        return PLAIN[hint]
    if is_record(hint):
        return st.deferred(lambda: records_of(hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = getattr(hint.__metadata__[0], "limits", None)
        return _within(limits) if limits else values_of(arguments[0])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin in (Sequence, list):
        return st.lists(values_of(arguments[0]), max_size=2)
    if origin is tuple:
        if arguments[-1] is not ...:
            return st.tuples(*map(values_of, arguments))
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is frozenset:
        return st.frozensets(values_of(arguments[0]), max_size=2)
    if origin in (Mapping, dict):
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    raise TypeError(f"{hint} has no strategy. Add it to ft_pipeline_tests/laws/values.py.")


def _within(limits: Mapping[str, Any]) -> SearchStrategy[Any]:
    """Return a strategy for the limits of store/checked_json.py."""
    if "pattern" in limits:
        return st.from_regex(limits["pattern"].removesuffix("$").removeprefix("^"), fullmatch=True)
    return st.integers(limits["ge"], limits["lt"] - 1)


def is_record(kind: Any) -> bool:
    """Return whether a type is a dataclass or a pydantic model."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))


def fields_of(record: Any) -> dict[str, Any]:
    """Return all fields of a record, as it is written."""
    return record.model_dump() if isinstance(record, BaseModel) else asdict(record)


def plain(record: Any) -> Any:
    """Return all fields of a record, for a comparison in which a list equals a tuple."""
    return json.loads(json.dumps(fields_of(record)))
