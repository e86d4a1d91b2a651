"""Metrics of the user's own: a Python function named by its dotted path, kept with the scores that it gave.

A module is looked for in the project folder first (`checks.politeness` is the function `politeness` of checks.py). Its
text goes into the spec: a score can be walked back to the code that made it, and a change of that code is seen. What is
not there must be installed; its distribution and version stand in for the text.
"""

import ast
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import Message
from ft_pipeline.settings.project import MetricSettings

PARAMETERS = ("reference", "answer", "messages")
"""What a function may ask for by these names: two strings, and the turns before the answer (role, content)."""


def resolve(root: Path, wanted: Mapping[str, MetricSettings]) -> dict[str, dict[str, Any]]:
    """By name `function`, `lower_is_better`, and `source` (the module's text) or `distribution`; runs nothing.

    UserError where there is no such module or function.
    """
    return {name: {**settings.model_dump(mode="json"), **_origin(root, settings)} for name, settings in wanted.items()}


def _origin(root: Path, settings: MetricSettings) -> dict[str, str | None]:
    module, _, function = settings.function.rpartition(".")
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    if path.is_file():
        return {"source": _checked(path, root, function), "distribution": None}
    package = module.split(".")[0]
    distributions = packages_distributions().get(package)
    if not distributions:
        raise UserError(
            f"evaluation.metrics: {settings.function!r}: there is no {path.relative_to(root)} in the project folder, "
            f"and no package {package!r} is installed"
        )
    return {"source": None, "distribution": f"{distributions[0]}=={version(distributions[0])}"}


def _checked(path: Path, root: Path, function: str) -> str:
    name = path.relative_to(root)
    try:
        source = path.read_text(encoding="utf-8")
        body = ast.parse(source).body
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: cannot be read as Python: {error}") from None
    functions = [each.name for each in body if isinstance(each, ast.FunctionDef)]
    if function not in functions:
        raise UserError(f"{name} has no function {function!r}; it has: {', '.join(functions) or 'none'}")
    return source


@dataclass(frozen=True)
class CustomMetric:
    """A function that is ready to be asked."""

    name: str
    path: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]

    @classmethod
    def load(cls, name: str, found: Mapping[str, Any]) -> "CustomMetric":
        """found: as `resolve` gives. UserError where its module fails, or it wants what there is not."""
        module_name, _, function_name = found["function"].rpartition(".")
        try:
            module = _module(module_name, found["source"])
            function = getattr(module, function_name)
            parameters = inspect.signature(function).parameters
        except Exception as error:
            raise UserError(f"metric {name} ({found['function']}): {type(error).__name__}: {error}") from None
        needed = [key for key, each in parameters.items() if each.default is inspect.Parameter.empty]
        if unknown := set(needed) - set(PARAMETERS):
            raise UserError(
                f"metric {name} ({found['function']}) has the parameter {sorted(unknown)[0]!r}; it may have "
                f"{', '.join(PARAMETERS)}"
            )
        return cls(name, found["function"], function, tuple(key for key in PARAMETERS if key in parameters))

    def __call__(self, reference: str, answer: str, messages: Sequence[Message]) -> float:
        """The number that the function gives. UserError, with the answer, where it fails or gives no finite number."""
        given = {"reference": reference, "answer": answer, "messages": [dict(message) for message in messages]}
        try:
            value = float(self.function(**{key: given[key] for key in self.parameters}))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"metric {self.name} ({self.path}) fails in line {line.lineno} of {Path(line.filename).name} on the "
                f"answer {answer[:80]!r}: {type(error).__name__}: {error}"
            ) from None
        if not math.isfinite(value):
            raise UserError(f"metric {self.name} ({self.path}) gives {value} for the answer {answer[:80]!r}")
        return value


def _module(name: str, source: str | None) -> ModuleType:
    if source is None:
        return importlib.import_module(name)
    module = ModuleType(f"ft_pipeline_custom.{name}")  # no installed module is hidden by it
    sys.modules[module.__name__] = module  # where dataclasses and the like look for their own module
    exec(compile(source, f"{name.rpartition('.')[2]}.py", "exec"), module.__dict__)
    return module
