"""All metrics of an answer: the metrics that every task has, the format check, and the user's functions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import orjson

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item, make_items
from ft_pipeline.evaluation.metrics.call_metrics import CALL_ITEMS, call_metrics, check_rules
from ft_pipeline.evaluation.metrics.classification import Classification
from ft_pipeline.evaluation.metrics.custom_metrics import CustomMetric
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, Metric, answer_metrics
from ft_pipeline.evaluation.metrics.json_fields import FieldsCheck, Rule
from ft_pipeline.evaluation.metrics.json_schema import SchemaCheck
from ft_pipeline.evaluation.metrics.project_metric import ProjectMetric
from ft_pipeline.models.tool_calls import Call
from ft_pipeline.settings.evaluation import CALL_METRICS

_NOT_JSON = object()


@dataclass(frozen=True)
class AnswerMetrics:
    """Computes the metrics of the answers in one job."""

    answer_format: Mapping[str, Any] | None
    """The fields of AnswerFormat, or None."""
    custom: Mapping[str, Mapping[str, Any]]
    """By name, as custom_metrics.resolve_metrics returns them."""
    scores_calls: bool = False
    """Whether some test items have tools."""
    argument_rules: Mapping[str, Rule] = field(default_factory=dict)
    """As evaluation.call_arguments."""

    @classmethod
    def of(cls, config: Mapping[str, Any], items: Iterable[Item]) -> "AnswerMetrics":
        """Return the metrics of a job. config: the job's config, with `evaluation` and `custom_metrics`."""
        has_tools = any(item.uses_tools for item in items)
        return cls(
            config["evaluation"].get("answer_format"),
            config.get("custom_metrics", {}),
            has_tools,
            config.get("call_arguments", {}),
        )

    @property
    def names(self) -> list[str]:
        """The metrics that are computed for each answer. A model's value is the mean."""
        of_format = ["format_valid"] if self.answer_format else []
        of_format += ["fields_match"] if self.answer_format and self.answer_format["type"] == "json" else []
        return [*ANSWER_METRICS, *of_format, *(CALL_METRICS if self.scores_calls else ()), *self.custom_definitions]

    @property
    def custom_definitions(self) -> dict[str, dict[str, Any]]:
        """The project's metrics as scores.json describes them, with the fields of Metric."""
        return {value: vars(definition) for metric in self._metrics for value, definition in metric.definitions.items()}

    @property
    def own(self) -> dict[str, Metric]:
        """The project's metrics."""
        return {name: Metric(**fields) for name, fields in self.custom_definitions.items()}

    @property
    def decides(self) -> str | None:
        """The project's metric that decides; None if there is none."""
        return next((name for name, entry in self.custom.items() if entry.get("decides")), None)

    @cached_property
    def _metrics(self) -> list[ProjectMetric]:
        return [project_metric(name, entry) for name, entry in self.custom.items()]

    def score_answer(self, item: Item, answer: str, calls: Sequence[Call] = ()) -> dict[str, Any]:
        """Return every metric of `names` for one answer, but those that need all answers; CALL_ITEMS if calls are
        scored; and texts that say what a check found in the answer.

        calls: the calls of tools in the answer, which its text has, too. Raises UserError if a function of the user
        fails.
        """
        return answer_metrics(item.reference, answer) | self.check_answer(item, answer, calls)

    def check_answer(self, item: Item, answer: str, calls: Sequence[Call] = ()) -> dict[str, Any]:
        """Return score_answer without ANSWER_METRICS, whose libraries take a second to load."""
        values: dict[str, Any] = {}
        if self.answer_format:
            values["format_valid"] = float(has_format(answer, self.answer_format))
        if "fields_match" in self.names and self.answer_format:
            values["fields_match"] = float(has_fields_of(answer, item.reference, self.answer_format["keys"]))
        values |= call_metrics(item, calls, self.argument_rules) if self.scores_calls else {}
        for metric in self._metrics:
            values |= metric.score(item, answer)
        return values

    def complete(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the samples of a model with the metrics that need all of its answers.

        Raises UserError if a function of the user fails.
        """
        of_all = {name: values for metric in self._metrics for name, values in metric.score_all(samples).items()}
        return [
            {**sample, **{name: values[position] for name, values in of_all.items()}}
            for position, sample in enumerate(samples)
        ]

    def check_references(self, items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> None:
        """Raise UserError if no reference answer has the declared format, or if the references do not go with a check
        of the project: then the declaration is wrong.

        items: the test items. rows: the conversations of all splits.
        """
        all_items = make_items(rows) if self._metrics or self.argument_rules else []
        check_rules(self.argument_rules, all_items)
        for metric in self._metrics:
            metric.check_references(items, all_items)
        if self.answer_format and not any(has_format(item.reference, self.answer_format) for item in items):
            raise UserError(
                f"evaluation.answer_format: none of the {len(items)} reference answers has this format. The first is "
                f"{items[0].reference[:80]!r}. Correct the format, or remove it."
            )

    def means(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the mean of every metric of `names` over the samples; those of calls over the samples with tools."""
        means = {name: fmean(sample[name] for sample in samples) for name in self.names}
        with_tools = sum(sample[CALL_ITEMS] for sample in samples) if self.scores_calls else 0
        of_calls = CALL_METRICS if with_tools else ()
        return means | {name: sum(sample[name] for sample in samples) / with_tools for name in of_calls}


def project_metric(name: str, entry: Mapping[str, Any]) -> ProjectMetric:
    """Return a metric of the project. entry: as custom_metrics.resolve_metrics returns it.

    Raises UserError if it is a function that cannot be loaded.
    """
    match entry.get("type"):
        case "json_fields":
            return FieldsCheck(name, entry["fields"])
        case "json_schema":
            return SchemaCheck(name, entry["document"])
        case "classification":
            return Classification(name, entry["labels"])
    return CustomMetric(name, entry)


def has_fields_of(answer: str, reference: str, keys: Sequence[str]) -> bool:
    """Return whether two JSON texts have the same values of these keys; of all their content if there are no keys."""
    parsed = [_parse_json(text) for text in (answer, reference)]
    if any(value is _NOT_JSON for value in parsed):
        return False
    if not keys or not all(isinstance(value, dict) for value in parsed):
        return bool(parsed[0] == parsed[1])
    return all(key in parsed[0] and parsed[0][key] == parsed[1].get(key) for key in keys)


def _parse_json(text: str) -> Any:
    try:
        return orjson.loads(text.strip())
    except orjson.JSONDecodeError:
        return _NOT_JSON


def has_format(answer: str, answer_format: Mapping[str, Any]) -> bool:
    """Return whether the whole answer has the format. answer_format: the fields of AnswerFormat."""
    text = answer.strip()
    if answer_format["type"] == "regex":
        return re.fullmatch(answer_format["pattern"], text) is not None
    parsed = _parse_json(text)
    if parsed is _NOT_JSON:
        return False
    keys = answer_format["keys"]
    return not keys or (isinstance(parsed, dict) and set(keys) <= parsed.keys())
