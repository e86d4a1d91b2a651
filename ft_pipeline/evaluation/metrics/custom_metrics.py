"""Custom metrics: Python functions of the user, named by dotted path.

A module is first looked up in the project folder (`checks.politeness` is the function `politeness` in checks.py). Its
text is part of the spec: a score can be traced to the code that computed it, and a code change is detected. Any other
module must be installed; its distribution and version replace the text.
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
from ft_pipeline.settings.evaluation import MetricSettings

PARAMETERS = ("reference", "answer", "messages")
"""The parameters that a function may have: two strings, and the turns before the answer (role, content)."""


def resolve_metrics(root: Path, metrics: Mapping[str, MetricSettings]) -> dict[str, dict[str, Any]]:
    """Return an entry per metric: `function`, `lower_is_better`, `source` (the module's text) and `distribution`.

    One of `source` and `distribution` is None. No user code runs. Raises UserError if the module, or the function in a
    module of the project, does not exist.
    """
    return {
        name: {**settings.model_dump(mode="json"), **_code_origin(root, settings)} for name, settings in metrics.items()
    }


def _code_origin(root: Path, settings: MetricSettings) -> dict[str, str | None]:
    module, _, function = settings.function.rpartition(".")
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    if path.is_file():
        return {"source": _read_source(path, root, function), "distribution": None}
    package = module.split(".")[0]
    distributions = packages_distributions().get(package)
    if not distributions:
        raise UserError(
            f"evaluation.metrics: {settings.function!r}: the project folder has no {path.relative_to(root)}, and no "
            f"package {package!r} is installed. Add the file, install the package, or correct the name."
        )
    return {"source": None, "distribution": f"{distributions[0]}=={version(distributions[0])}"}


def _read_source(path: Path, root: Path, function: str) -> str:
    """Return the text of a module. Raises UserError if it does not define the function."""
    name = path.relative_to(root)
    try:
        source = path.read_text(encoding="utf-8")
        body = ast.parse(source).body
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise UserError(f"{name} cannot be read as Python ({error}). Correct the file.") from None
    functions = [statement.name for statement in body if isinstance(statement, ast.FunctionDef)]
    if function not in functions:
        raise UserError(f"{name} has no function {function!r}. Add it or use one of: {', '.join(functions) or 'none'}.")
    return source


@dataclass(frozen=True)
class CustomMetric:
    """A loaded metric function."""

    name: str
    path: str
    """The function's dotted path."""
    function: Callable[..., Any]
    parameters: tuple[str, ...]

    @classmethod
    def load(cls, name: str, entry: Mapping[str, Any]) -> "CustomMetric":
        """Load the function of an entry that resolve_metrics returned.

        Raises UserError if the module fails or the function requires an unknown parameter.
        """
        module_name, _, function_name = entry["function"].rpartition(".")
        try:
            module = _load_module(module_name, entry["source"])
            function = getattr(module, function_name)
            parameters = inspect.signature(function).parameters
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise UserError(f"Metric {name} ({entry['function']}) cannot be loaded: {message}") from None
        required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
        if unknown := set(required) - set(PARAMETERS):
            raise UserError(
                f"Metric {name} ({entry['function']}) has the unknown parameter {sorted(unknown)[0]!r}. Use only "
                f"{', '.join(PARAMETERS)}."
            )
        return cls(name, entry["function"], function, tuple(key for key in PARAMETERS if key in parameters))

    def __call__(self, reference: str, answer: str, messages: Sequence[Message]) -> float:
        """Return the function's number. Raises UserError, with the answer, if it fails or the number is not finite."""
        arguments = {"reference": reference, "answer": answer, "messages": [dict(message) for message in messages]}
        try:
            value = float(self.function(**{key: arguments[key] for key in self.parameters}))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"Metric {self.name} ({self.path}) failed in line {line.lineno} of {Path(line.filename).name} on the "
                f"answer {answer[:80]!r}: {type(error).__name__}: {error}"
            ) from None
        if not math.isfinite(value):
            raise UserError(
                f"Metric {self.name} ({self.path}) returned {value} for the answer {answer[:80]!r}. Return a finite "
                "number."
            )
        return value


def _load_module(name: str, source: str | None) -> ModuleType:
    if source is None:
        return importlib.import_module(name)
    module = ModuleType(f"ft_pipeline_custom.{name}")  # does not shadow an installed module
    sys.modules[module.__name__] = module  # dataclasses and others look up their module here
    exec(compile(source, f"{name.rpartition('.')[2]}.py", "exec"), module.__dict__)
    return module
