"""Metrics of the project that are Python functions of the user, named by dotted path.

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
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.corpus_values import jackknife
from ft_pipeline.evaluation.metrics.definitions import CHECKS_VERSION, Metric
from ft_pipeline.evaluation.metrics.json_schema import read_schema
from ft_pipeline.evaluation.metrics.project_metric import SHOWN, ProjectMetric
from ft_pipeline.settings.checks import CheckMetric, FunctionMetric, SchemaMetric

PARAMETERS = ("reference", "answer", "messages")
"""The parameters that a function may have: two strings, and the turns before the answer (role, content)."""
CORPUS_PARAMETERS = ("references", "answers")
"""The parameters of a function of all answers: two lists of strings, in the same order."""
UNIT, MEANING = "of its own function", "evaluation.metrics in project.yaml"
"""As the definition of such a metric says."""


def resolve_metrics(root: Path, metrics: Mapping[str, FunctionMetric | CheckMetric]) -> dict[str, dict[str, Any]]:
    """Return an entry per metric: its settings, and what they name.

    A function has the keys `source` (the module's text) and `distribution`, of which one is None. A schema has the key
    `document`. No user code runs. Raises UserError if a module, a function in a module of the project, or a schema does
    not exist, or if it is not valid.
    """
    return {
        name: {**settings.model_dump(mode="json"), **_named(root, name, settings)} for name, settings in metrics.items()
    }


def _named(root: Path, name: str, settings: FunctionMetric | CheckMetric) -> dict[str, Any]:
    """Return the content of what the settings of a metric name; of a check, also the version of its code."""
    if isinstance(settings, FunctionMetric):
        return _code_origin(root, settings.function)
    document = {"document": read_schema(name, root, settings.file)} if isinstance(settings, SchemaMetric) else {}
    return {**document, "version": CHECKS_VERSION}


def _code_origin(root: Path, dotted_path: str) -> dict[str, str | None]:
    module, _, function = dotted_path.rpartition(".")
    path = root.joinpath(*module.split(".")).with_suffix(".py")
    if path.is_file():
        return {"source": _read_source(path, root, function), "distribution": None}
    package = module.split(".")[0]
    distributions = packages_distributions().get(package)
    if not distributions:
        raise UserError(
            f"evaluation.metrics: {dotted_path!r}: the project folder has no {path.relative_to(root)}, and no "
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


class CustomMetric(ProjectMetric):
    """A loaded metric function, of an answer or of all answers."""

    def __init__(self, name: str, entry: Mapping[str, Any]) -> None:
        """Load the function of an entry that resolve_metrics returned.

        Raises UserError if the module fails or the function requires an unknown parameter.
        """
        super().__init__(name)
        self._lower_is_better: bool = entry["lower_is_better"]
        self._is_of_all: bool = entry.get("corpus", False)
        self._title = f"Metric {name} ({entry['function']})"
        module_name, _, function_name = entry["function"].rpartition(".")
        try:
            self._function = getattr(_load_module(module_name, entry["source"]), function_name)
            parameters = inspect.signature(self._function).parameters
        except Exception as error:
            raise UserError(f"{self._title} cannot be loaded: {type(error).__name__}: {error}") from None
        known = CORPUS_PARAMETERS if self._is_of_all else PARAMETERS
        required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
        if unknown := set(required) - set(known):
            raise UserError(
                f"{self._title} has the unknown parameter {sorted(unknown)[0]!r}. Use only {', '.join(known)}."
            )
        self._parameters = tuple(key for key in known if key in parameters)

    @property
    def definitions(self) -> dict[str, Metric]:
        """The metric under its name."""
        return {self.name: Metric(self.name, self._lower_is_better, UNIT, MEANING)}

    def score(self, item: Item, answer: str) -> dict[str, Any]:
        """Return the function's number. Raises UserError, with the answer, if it fails or the number is not finite."""
        if self._is_of_all:
            return {}
        arguments = {
            "reference": item.reference,
            "answer": answer,
            "messages": [dict(message) for message in item.messages[:-1]],
        }
        return {self.name: self._call(arguments, f"the answer {answer[:SHOWN]!r}")}

    def score_all(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
        """Return the number of a function of all answers. Raises UserError if it fails or a number is not finite."""
        if not self._is_of_all:
            return {}

        def measure(positions: list[int]) -> float:
            chosen = [samples[position] for position in positions]
            arguments = {
                "references": [sample["reference"] for sample in chosen],
                "answers": [sample["answer"] for sample in chosen],
            }
            return self._call(arguments, f"{len(chosen)} answers")

        return {self.name: jackknife(measure, [sample["group"] for sample in samples])}

    def _call(self, arguments: Mapping[str, Any], of: str) -> float:
        try:
            value = float(self._function(**{key: arguments[key] for key in self._parameters}))
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{self._title} failed in line {line.lineno} of {Path(line.filename).name} on {of}: "
                f"{type(error).__name__}: {error}"
            ) from None
        if not math.isfinite(value):
            raise UserError(f"{self._title} returned {value} for {of}. Return a finite number.")
        return value


def _load_module(name: str, source: str | None) -> ModuleType:
    if source is None:
        return importlib.import_module(name)
    module = ModuleType(f"ft_pipeline_custom.{name}")  # does not shadow an installed module
    sys.modules[module.__name__] = module  # dataclasses and others look up their module here
    exec(compile(source, f"{name.rpartition('.')[2]}.py", "exec"), module.__dict__)
    return module
