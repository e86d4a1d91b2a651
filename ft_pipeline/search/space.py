"""The settings that a search varies, and their values: what `--over` says, checked by the experiment's own settings."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.yaml_file import section_of, validate_document

SEARCHED = ("technique", "prompt_tuning", "lora", "quantization", "data.weights", "data.share", "training", "grpo")
"""Settings that a search may vary. Held-out losses of the others are not comparable, or they train nothing."""
NOT_SEARCHED = {
    "training.seed": "The best of several seeds is luck. Set `seeds` in the experiment to see how much seeds differ.",
    "training.max_length": "It decides which rows are there, so the losses are not comparable. Choose one length.",
    **dict.fromkeys(
        ("training.eval_rows", "training.eval_steps", "training.evals_per_epoch", "training.save_steps"),
        "It changes how the loss is measured or kept, not what is learned. Leave it out.",
    ),
    "training.report_to": "Trackers change no result. Leave it out.",
    **dict.fromkeys(
        ("grpo.rewards", "grpo.max_new_tokens", "grpo.reward_seconds", "grpo.reward_memory_gb"),
        "It changes the reward itself, so rewards are not comparable. Leave it out.",
    ),
}
"""Keys of SEARCHED that cannot be varied, with the reason."""
LOG_KEYS = ("training.learning_rate", "training.weight_decay", "grpo.beta")
LOG_SECTION = "data.weights."
"""Ranges of rates and weights are searched by factors (a logarithmic scale)."""
MAX_CHECKED = 2000
"""Number of combinations that are checked before the first training."""

Value = bool | int | float | str | list[Any] | None


@dataclass(frozen=True)
class Dimension:
    """One setting and the values that it may have."""

    key: str
    """Dotted, as in error messages: `training.learning_rate`."""
    choices: tuple[Value, ...] = ()
    """The values of a list; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False

    @property
    def is_range(self) -> bool:
        return not self.choices

    @property
    def corners(self) -> tuple[Value, ...]:
        """The values that are checked: all of a list, the ends of a range."""
        return self.choices or (self.low, self.high)

    def contains(self, value: Value) -> bool:
        """Whether a trial may have this value."""
        if not self.is_range:
            return value in self.choices
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= cast(float, value) <= self.high

    def describe(self) -> str:
        """Return, for example, `training.learning_rate: 0.0001 to 0.003, on a logarithmic scale`."""
        if not self.is_range:
            return f"{self.key}: {', '.join(yaml_text(value) for value in self.choices)}"
        scale = "logarithmic" if self.log else "linear"
        return f"{self.key}: {self.low:g} to {self.high:g}, on a {scale} scale"

    def to_json(self) -> dict[str, Any]:
        """Return what a study is identified by."""
        if not self.is_range:
            return {"key": self.key, "choices": list(self.choices)}
        return {"key": self.key, "low": self.low, "high": self.high, "integer": self.integer, "log": self.log}


def read_space(over: Sequence[str], document: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Return the dimensions of `--over KEY=VALUES`, in the order of their keys.

    document: the experiment's YAML. UserError for a key that cannot be varied, and for values that the experiment's
    settings refuse, alone or together.
    """
    if not over:
        raise UserError("There is nothing to vary. Add, for example, --over training.learning_rate=1e-4..3e-3.")
    dimensions = sorted((_read_dimension(text) for text in over), key=lambda dimension: dimension.key)
    for first, second in itertools.pairwise(dimensions):
        if first.key == second.key:
            raise UserError(f"--over names {first.key} twice. Write all its values into one.")
    combinations = itertools.product(*(dimension.corners for dimension in dimensions))
    for values in itertools.islice(combinations, MAX_CHECKED):
        settings_with(document, {dimension.key: value for dimension, value in zip(dimensions, values, strict=True)})
    return tuple(dimensions)


def settings_with(document: Mapping[str, Any], values: Mapping[str, Value]) -> ExperimentSettings:
    """Return the settings of an experiment's YAML with other values. UserError if they are refused."""
    name = " ".join(f"--over {key}={yaml_text(value)}" for key, value in values.items())
    return validate_document(name, document_with(document, values), ExperimentSettings)


def document_with(document: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return an experiment's YAML with other values. The sweep members of the experiment are not part of it."""
    changed: dict[str, Any] = {key: value for key, value in document.items() if key not in ("seeds", "learning_curve")}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section[name] = dict(section.get(name) or {})
            section = section[name]
        section[last] = value
    return changed


def current_value(settings: ExperimentSettings, key: str) -> Value:
    """Return the value of a dotted key."""
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def yaml_text(value: Value) -> str:
    """Return a value as YAML writes it in one line."""
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _read_dimension(text: str) -> Dimension:
    """Return the dimension of one `--over`."""
    key, separator, values = text.partition("=")
    key = key.strip()
    if not separator or not values.strip():
        raise UserError(f"--over {text} names no values. Write KEY=VALUE,VALUE or KEY=LOW..HIGH.")
    kinds = _kinds_of(key)
    if match := re.fullmatch(r"\s*([^,\[\]]+?)\.\.([^,\[\]]+?)\s*", values):
        return _read_range(key, match[1], match[2], kinds)
    try:
        choices = load_bounded(f"[{values}]")
    except yaml.YAMLError:
        raise UserError(f"--over {text} is not a list of values. Separate values with commas.") from None
    choices = tuple(_as_number(choice, kinds) for choice in choices)
    if any(choices.count(choice) > 1 for choice in choices):
        raise UserError(f"--over {text} names a value twice. Name each value once.")
    return Dimension(key, choices)


def _read_range(key: str, low_text: str, high_text: str, kinds: set[Any]) -> Dimension:
    if not kinds & {int, float} or bool in kinds:
        raise UserError(f"--over {key}={low_text}..{high_text}: {key} is not a number. List its values: {key}=A,B.")
    integer = float not in kinds
    try:
        low, high = (int(text) if integer else float(text) for text in (low_text, high_text))
    except ValueError:
        number = "whole numbers" if integer else "numbers"
        raise UserError(
            f"--over {key}={low_text}..{high_text}: a range of {key} has two {number}. Correct it."
        ) from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"--over {key}={low_text}..{high_text}: a range has an end. Write two finite numbers.")
    if not low < high:
        raise UserError(f"--over {key}={low_text}..{high_text}: the range is empty. Write the smaller number first.")
    log = low > 0 and (key in LOG_KEYS or key.startswith(LOG_SECTION))
    return Dimension(key, low=low, high=high, integer=integer, log=log)


def _as_number(value: Any, kinds: set[Any]) -> Any:
    """Return `1e-4` as a number, which YAML reads as text."""
    if isinstance(value, str) and float in kinds and str not in kinds:
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    return value


def _kinds_of(key: str) -> set[Any]:
    """Return the types of a setting's values. UserError if there is no such setting, or a search may not vary it."""
    annotation: Any = ExperimentSettings
    for name in key.split("."):
        section = section_of(annotation)
        if section is None or name not in section.model_fields:
            validate_document(f"--over {key}", document_with({}, {key: None}), ExperimentSettings)  # names similar keys
            raise UserError(f"--over {key}: there is no setting {key!r}. See docs/settings.md for the settings.")
        annotation = section.model_fields[name].annotation
    if reason := NOT_SEARCHED.get(key):
        raise UserError(f"--over {key}: a search cannot vary it. {reason}")
    if section_of(annotation) is not None or not any(key == own or key.startswith(f"{own}.") for own in SEARCHED):
        raise UserError(
            f"--over {key}: a search cannot vary it, because losses would not be comparable. "
            f"Choose a key of {', '.join(SEARCHED)}."
        )
    return _leaf_types(annotation)


def _leaf_types(annotation: Any) -> set[Any]:
    """Return the plain types that a value may have."""
    arguments = get_args(annotation)
    if not arguments:
        return {annotation} if isinstance(annotation, type) else {type(annotation)}
    if hasattr(annotation, "__metadata__"):
        return _leaf_types(arguments[0])
    return set().union(*(_leaf_types(argument) for argument in arguments))
