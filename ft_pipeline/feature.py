"""A feature: an optional capability in a folder of its own, which nothing of the core imports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a folder adds to the core. Targets are `module` or `module:name`, imported when they are used."""

    name: str
    about: str
    """One sentence."""
    docs: str = ""
    """Its page in docs/."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Section of the settings (`experiment`, `evaluation`) → the FeatureKeys that it has in addition."""
    steps: Mapping[str, str] = field(default_factory=dict)
    """Step → the module that describes it, as a file in steps/ does."""
    feeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Step of the core → steps of the feature that it reads."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Command of `ft` → `module:function`, or `module:app` of a group."""
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table of the core (features.TABLES) → name → what is chosen by it."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """Event of the core (features.HOOKS) → function that is called at it."""
