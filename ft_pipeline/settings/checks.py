"""Settings of `evaluation.metrics`: functions of the project, and checks of JSON answers, labels and calls."""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from ft_pipeline.settings.yaml_file import Section, later, rule_error

MACRO_F1, ALL_FIELDS = "macro_f1", "all"
"""The second values of a classification, and of the fields of JSON answers: `NAME/macro_f1` and `NAME/all`."""


class NumberRule(Section):
    """A field is right if its number differs from the reference's by at most `number`."""

    number: float = Field(ge=0)


class TextRule(Section):
    """A field is right if its text reaches `text` by chrF, from 0 to 100."""

    text: float = Field(gt=0, le=100)


FieldRule = Literal["exact", "number", "set", "text"] | NumberRule | TextRule
"""How a field is compared with that of the reference."""


ArgumentRule = Literal["exact", "number", "set"] | NumberRule | TextRule
"""How an argument of a call is compared: it is right or wrong, so that a text needs a limit."""


class FunctionMetric(Section):
    """A function of the project."""

    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    """`checks.politeness` is the function `politeness` in checks.py of the project folder, or in an installed package.
    Its keyword arguments are `reference`, `answer` and, if it has that parameter, `messages`. It returns a number."""
    lower_is_better: bool = False
    decides: bool = False
    """Whether it decides which model is better, where `promotion.metric` is auto. For a metric that checks answers."""
    corpus: bool = later(False)
    """Whether the function is of all answers together: its arguments are `references` and `answers`, two lists."""


class FieldsMetric(Section):
    """JSON answers, field by field: the share of the fields that are right."""

    type: Literal["json_fields"]
    fields: dict[str, FieldRule] = Field(min_length=1)
    """By path (`order.total`), how the field is compared: `exact`, `number` or `{number: 0.01}` (the tolerance), `set`
    (a list in any order), `text` (chrF) or `{text: 60}` (right from this chrF)."""
    decides: bool = False
    """Whether it decides which model is better, where `promotion.metric` is auto."""

    @model_validator(mode="after")
    def _check_paths(self) -> "FieldsMetric":
        for path in self.fields:
            if not all(path.split(".")):
                raise rule_error(
                    f"fields.{path}", f"the field path {path!r} has an empty part. Write it as `order.total`."
                )
            inner = next((other for other in self.fields if other.startswith(f"{path}.")), None)
            if inner is not None:
                raise rule_error(f"fields.{path}", f"`{inner}` is a part of `{path}`. Compare only one of the two.")
        return self


class SchemaMetric(Section):
    """The share of the answers that are valid by a JSON Schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    file: str = Field(alias="schema", min_length=1)
    """The file of the schema, relative to the project folder."""
    decides: bool = False
    """Whether it decides which model is better, where `promotion.metric` is auto."""


class ClassificationMetric(Section):
    """The share of the answers with the label of the reference, macro-F1, and a confusion matrix."""

    type: Literal["classification"]
    labels: list[str] = Field(min_length=2)
    """All labels. Case, signs and white space do not count."""
    decides: bool = False
    """Whether its accuracy decides which model is better, where `promotion.metric` is auto."""

    @model_validator(mode="after")
    def _check_labels(self) -> "ClassificationMetric":
        seen: dict[str, str] = {}
        for label in self.labels:
            plain = plain_label(label)
            if not plain:
                raise rule_error("labels", f"the label {label!r} has no letter and no digit. Choose another label.")
            if plain in seen:
                raise rule_error(
                    "labels", f"the labels {seen[plain]!r} and {label!r} are equal but for case and signs. Remove one."
                )
            seen[plain] = label
        return self


CheckMetric = FieldsMetric | SchemaMetric | ClassificationMetric


def plain_label(text: str) -> str:
    """Return a text in the form in which labels are compared: lower case, with single spaces for signs."""
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def _type_of(metric: Any) -> str | None:
    if isinstance(metric, dict):
        return "function" if "type" not in metric else str(metric["type"])
    return getattr(metric, "type", "function")


MetricSettings = Annotated[
    Annotated[FunctionMetric, Tag("function")]
    | Annotated[FieldsMetric, Tag("json_fields")]
    | Annotated[SchemaMetric, Tag("json_schema")]
    | Annotated[ClassificationMetric, Tag("classification")],
    Discriminator(
        _type_of,
        custom_error_type="metric_type",
        custom_error_message="input should name a function, or have the type json_fields, json_schema, classification",
    ),
]
"""A metric of `evaluation.metrics`."""


def values_of(name: str, metric: FunctionMetric | CheckMetric) -> list[str]:
    """Return the names of the values that a metric measures; the one of its own name first."""
    second = {"json_fields": ALL_FIELDS, "classification": MACRO_F1}.get(getattr(metric, "type", ""))
    return [name] if second is None else [name, f"{name}/{second}"]
