"""The golden worlds: small comparisons of invented scores, one measured situation each."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ft_pipeline_tests.golden.shop import Shop, World
from ft_pipeline_tests.golden.worlds import champions, checks, costs_and_forms, faults, people, rivals, tuned

MODULES = (tuned, champions, people, faults, checks, costs_and_forms, rivals)
MADE: dict[str, Callable[[Shop], None]] = {
    name: function
    for module in MODULES
    for name, function in vars(module).items()
    if callable(function) and getattr(function, "__module__", "") == module.__name__ and not name.startswith("_")
}
"""By name of a world, the function that fills it in. Its docstring says what it is about."""


def make(name: str) -> World:
    """Return a world. The same name gives the same numbers."""
    shop, function = Shop(), MADE[name]
    function(shop)
    with tempfile.TemporaryDirectory() as folder:
        return shop.build(name, " ".join((function.__doc__ or "").split()), Path(folder))


def every() -> Iterator[World]:
    """Yield each world: a comparison, and what promotion, verdict and recommendation read besides."""
    yield from map(make, MADE)
