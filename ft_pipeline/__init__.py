"""Fine-tuning as a Dagster project."""

from pkgutil import resolve_name
from typing import Any

__all__ = ["FineTuning"]


def __getattr__(name: str) -> Any:
    """Return the component, which Dagster looks for in this module. `ft` imports Dagster only where it is needed."""
    if name == "FineTuning":
        return resolve_name("ft_pipeline.component:FineTuning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
