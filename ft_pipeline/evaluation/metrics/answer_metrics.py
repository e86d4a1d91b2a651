"""All metrics of an answer: the metrics that every task has, the format check, and the user's functions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import orjson

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.call_metrics import CALL_ITEMS, call_metrics
from ft_pipeline.evaluation.metrics.custom_metrics import CustomMetric
from ft_pipeline.evaluation.metrics.definitions import ANSWER_METRICS, Metric, answer_metrics
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

    @classmethod
    def of(cls, config: Mapping[str, Any], items: Iterable[Item]) -> "AnswerMetrics":
        """Return the metrics of a job. config: the job's config, with `evaluation` and `custom_metrics`."""
        has_tools = any(item.uses_tools for item in items)
        return cls(config["evaluation"].get("answer_format"), config.get("custom_metrics", {}), has_tools)

    @property
    def names(self) -> list[str]:
        """The metrics that are computed for each answer. A model's value is the mean."""
        of_format = ["format_valid"] if self.answer_format else []
        of_format += ["fields_match"] if self.answer_format and self.answer_format["type"] == "json" else []
        return [*ANSWER_METRICS, *of_format, *(CALL_METRICS if self.scores_calls else ()), *self.custom]

    @property
    def custom_definitions(self) -> dict[str, dict[str, Any]]:
        """The user's metrics as scores.json describes them, with the fields of Metric."""
        return {
            name: vars(custom_definition(name, settings["lower_is_better"])) for name, settings in self.custom.items()
        }

    @cached_property
    def _functions(self) -> list[CustomMetric]:
        return [CustomMetric.load(name, settings) for name, settings in self.custom.items()]

    def score_answer(self, item: Item, answer: str, calls: Sequence[Call] = ()) -> dict[str, float]:
        """Return every metric of `names` for one answer, and CALL_ITEMS if calls are scored.

        calls: the calls of tools in the answer, which its text has, too. Raises UserError if a function of the user
        fails.
        """
        values = answer_metrics(item.reference, answer)
        if self.answer_format:
            values["format_valid"] = float(has_format(answer, self.answer_format))
        if "fields_match" in self.names and self.answer_format:
            values["fields_match"] = float(has_fields_of(answer, item.reference, self.answer_format["keys"]))
        values |= call_metrics(item, calls) if self.scores_calls else {}
        values |= {metric.name: metric(item.reference, answer, item.messages[:-1]) for metric in self._functions}
        return values

    def check_references(self, items: Sequence[Item]) -> None:
        """Raise UserError if no reference answer has the declared format: then the declaration is wrong."""
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


def custom_definition(name: str, lower_is_better: bool) -> Metric:
    """Return the description of a metric of the project."""
    return Metric(name, lower_is_better, "of its own function", "evaluation.metrics in project.yaml")


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
