"""decode(encode(x)) == x for each section of settings: a spec, a worker and a YAML file get what was set."""

import importlib
import json
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, ValidationError

import ft_pipeline.settings
from ft_pipeline.settings.yaml_file import Section, read_settings
from ft_pipeline_tests.examples import examples
from ft_pipeline_tests.laws.values import JSON

for path in sorted(Path(ft_pipeline.settings.__file__).parent.glob("*.py")):
    importlib.import_module(f"ft_pipeline.settings.{path.stem}")


def sections(section: type[Section] = Section) -> list[type[Section]]:
    """Return every kind of section of the YAML files: the config of a step is a part of them."""
    children = [child for child in section.__subclasses__() if not child.__module__.startswith("ft_pipeline.steps")]
    return sorted(
        [*children, *(deep for child in children for deep in sections(child))], key=lambda model: model.__name__
    )


def values_of(hint: Any, limits: tuple[Any, ...] = ()) -> SearchStrategy[Any]:
    """Return a strategy for JSON values of a type hint, most of them within its limits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return values_of(arguments[0], (*limits, *(part for entry in arguments[1:] for part in _parts(entry))))
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values_of(argument, limits) for argument in arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    bounds = {name: getattr(part, name) for part in limits for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    least = next((part.min_length for part in limits if getattr(part, "min_length", None)), 0)
    pattern = next((part.pattern for part in limits if getattr(part, "pattern", None)), None)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return documents_of(hint)
    if hint is bool:
        return st.booleans()
    if hint in (int, float):
        low, high = bounds.get("ge", bounds.get("gt", -5)), bounds.get("le", bounds.get("lt", 9))
        low, high = min(low, high), max(low, high)
        whole = st.integers(int(low), max(int(high), int(low)))
        return (
            whole if hint is int else whole.map(float) | st.floats(low, high, exclude_max="lt" in bounds and low < high)
        )
    if hint is str:
        return st.from_regex(pattern, fullmatch=True) if pattern else st.text("ab1-", min_size=least, max_size=5)
    if origin in (list, tuple, frozenset, set):
        return st.lists(values_of(arguments[0]), min_size=least, max_size=2)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), min_size=least, max_size=2)
    return JSON


def _parts(entry: Any) -> list[Any]:
    """Return the limits of `Field(ge=0)`, or of an annotation that is a limit itself."""
    return list(getattr(entry, "metadata", None) or [entry])


OF_FIELDS = {
    ("EndpointSettings", "url"): st.just("http://localhost:8000/v1"),
    ("PromotionSettings", "two_people"): st.just(False),  # no spec has it: it does not change what the rules decide
}
"""Settings whose values are not all of their type."""
NEVER_DECODED = {"TaskSettings", "EvaluationSettings", "ProjectSettings"}
"""Only their YAML is read: `margin`, which has a default, is refused without `must_hold`."""


@st.composite
def documents_of(draw: st.DrawFn, model: type[BaseModel]) -> dict[str, Any]:
    """A document of a section: all keys that it must have, and up to three others."""
    fields = model.model_fields
    needed = [name for name, field in fields.items() if field.is_required()]
    others = st.lists(st.sampled_from(sorted(set(fields) - set(needed)) or [""]), max_size=3, unique=True)
    names = [*needed, *(name for name in draw(others) if name)]
    strategies = {
        name: OF_FIELDS.get((model.__name__, name), values_of(fields[name].annotation, tuple(fields[name].metadata)))
        for name in names
    }
    return {fields[name].alias or name: draw(strategy) for name, strategy in strategies.items()}


@examples(5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("model", sections(), ids=lambda model: model.__name__)
def test_settings_are_read_as_they_were_written(
    model: type[Section], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    document = data.draw(documents_of(model))
    try:
        value = model.model_validate(document)
    except ValidationError:
        reject()
    if model.__name__ not in NEVER_DECODED:
        again = model.model_validate(json.loads(json.dumps(value.model_dump(mode="json"))))
        assert again == value and again.model_dump(mode="json") == value.model_dump(mode="json")
    changed = value.model_dump(mode="json", exclude_defaults=True)
    assert model.model_validate(changed) == value
    if changed:
        path = tmp_path_factory.getbasetemp() / "settings.yaml"
        # Escaped: PyYAML writes the line break U+0085 so that it reads a space.
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        assert read_settings(path, model, despite_secrets=True) == value
