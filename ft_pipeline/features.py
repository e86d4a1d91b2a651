"""Features: optional capabilities, each in a folder of its own, which nothing of the core imports.

Other packages register theirs by the entry point `ft_pipeline.features`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

GROUP = "ft_pipeline.features"
"""The group of entry points. Each one names a Feature."""
BUILT_IN = (
    *("rewards", "preferences"),
    *("gguf", "ratings", "judge", "serving", "inbox", "search", "worth", "exchange", "clusters"),
    *("remote", "copies", "audit", "erasure", "foreign_logs", "evidence"),
)
"""Folders of this package whose `__init__.py` has a FEATURE."""
TABLES = {
    "export": "(project, store, model, directory, quantize, force, with_texts) → the Answer of `ft export --format`",
    "compare": "(logs, metric, looks) → the Answer of `ft compare --from`",
    "launcher": "(kind, need) → the Launcher of a job that needs a device, by the value of FT_LAUNCHER",
    "copied_row": "(content, SHA-256) → whether a row of a ledger is as written or erased, by folder of the store",
    "remote": "() → the Access to files of remote sources, by the scheme of their URL",
    "served_file": "(store, model, type) → the file of a model that an engine of `ft serve` reads",
}
"""Tables of the core to which a feature adds choices, with what is called."""
HOOKS = {
    "downloaded": "(project, format, path, name, declared_in): a remote file is in its folder, and not read yet",
    "compared": "(context, scored) → further scores that are compared, by their input",
    "compared_by": "(context) → keys that the config of the comparison has in addition",
    "opinions": "(context) → opinions on pairs of answers that the comparison reads, by their input",
    "verified": "(index) → the CheckedRecords of a ledger that `ft audit --verify` checks",
}
"""Events of the core at which the functions of features are called."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a folder adds to the core. Targets are `module` or `module:name`, imported when they are used."""

    name: str
    about: str
    """One sentence."""
    docs: str = ""
    """Its page in docs/."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Section of the settings (`project`, `experiment`, `objective`, `evaluation`) → the FeatureKeys that are added."""
    objectives: Mapping[str, str] = field(default_factory=dict)
    """Objective → its ObjectiveRules, which name its ObjectiveSpec."""
    steps: Mapping[str, str] = field(default_factory=dict)
    """Step → the module that describes it, as a file in steps/ does."""
    feeds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Step of the core → steps of the feature that it reads."""
    assets: Mapping[str, str] = field(default_factory=dict)
    """Asset of the graph that is no step, and that `ft run` leaves out → function that returns the Dagster asset. The
    function `used` of the module says whether a project has it."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Command of `ft` → `module:function`, or `module:app` of a group."""
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table of the core (TABLES) → name → what is chosen by it."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """Event of the core (HOOKS) → function that is called at it."""


@cache
def features() -> dict[str, Feature]:
    """Return the features by name. A package registers one by `[project.entry-points."ft_pipeline.features"]`."""
    found = [import_module(f"{__package__}.{name}").FEATURE for name in BUILT_IN]
    found += [entry.load() for entry in entry_points(group=GROUP)]
    return {feature.name: feature for feature in found}


def call(hook: str, *arguments: Any) -> Iterator[Any]:
    """Yield what each feature with a function for the hook answers."""
    for feature in features().values():
        if hook in feature.hooks:
            yield resolve_name(feature.hooks[hook])(*arguments)


def tell(hook: str, *arguments: Any) -> None:
    """Call the function of each feature for a hook to which nothing is answered."""
    for _ in call(hook, *arguments):
        pass


def assets() -> dict[str, str]:
    """Return asset that is no step → target of the assets of all features."""
    return {name: target for feature in features().values() for name, target in feature.assets.items()}


def commands() -> dict[str, str]:
    """Return command of `ft` → target of the commands of all features."""
    return {name: target for feature in features().values() for name, target in feature.commands.items()}


def choice(table: str, name: str) -> Callable[..., Any] | None:
    """Return what a feature offers under a name in a table of the core; None if no feature does."""
    tables = (feature.choices.get(table, {}) for feature in features().values())
    target = next((offered[name] for offered in tables if name in offered), None)
    return resolve_name(target) if target else None


def names_in(table: str) -> list[str]:
    """Return what one may choose in a table, besides what the core has."""
    return [name for feature in features().values() for name in feature.choices.get(table, ())]


def modules_of_steps() -> dict[str, str]:
    """Return step → module of the steps of all features."""
    return {name: module for feature in features().values() for name, module in feature.steps.items()}


def feeding(step: str) -> tuple[str, ...]:
    """Return the steps of features that a step of the core reads."""
    return tuple(name for feature in features().values() for name in feature.feeds.get(step, ()))
