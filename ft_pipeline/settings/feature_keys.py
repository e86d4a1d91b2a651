"""Sections of the settings to which features add keys and rules."""

from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any, Self, TypeVar, cast

from pydantic import BaseModel, create_model

from ft_pipeline.features import features
from ft_pipeline.settings.yaml_file import Section


class FeatureKeys(Section):
    """Keys that a feature adds to a section of the core. Only those of objectives change results of the core."""

    @classmethod
    def of(cls, section: BaseModel) -> Self:
        """Return the section, as one that has these keys."""
        assert isinstance(section, cls)
        return section


SectionT = TypeVar("SectionT", bound=BaseModel)


def open_to_features(name: str) -> Callable[[type[SectionT]], type[SectionT]]:
    """Decorate a section of the settings: the keys and rules of features are added to its own, at its end."""

    def extend(section: type[SectionT]) -> type[SectionT]:
        added = _keys_of(name)
        if not added:
            return section
        made = create_model(
            section.__name__, __base__=(*added, section), __module__=section.__module__, __doc__=section.__doc__
        )
        return cast(type[SectionT], made)

    return extend


@cache
def _keys_of(name: str) -> tuple[type[Any], ...]:
    return tuple(resolve_name(each.settings[name]) for each in features().values() if name in each.settings)


def defaults_of_features(name: str) -> dict[str, Any]:
    """Return key → default of what features add to a section. Specs of the core lack these keys, and sweep members have
    the defaults."""
    return {
        key: field.get_default(call_default_factory=True)
        for keys in _keys_of(name)
        for key, field in keys.model_fields.items()
    }
