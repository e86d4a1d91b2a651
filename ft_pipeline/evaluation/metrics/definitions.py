"""Metric definitions: names, directions, and the metrics of one answer against its reference."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

VERSION = "3"
"""Part of the evaluation fingerprint. Raise it with every change that affects a value of a metric."""

CALLS_VERSION = "1"
"""The same for the metrics of calls. It is a part only if test rows have tools."""

CHECKS_VERSION = "1"
"""The same for the checks of `evaluation.metrics`. It is a part only if the project has some."""

SHARE_OF_FIELDS = "share of fields"
"""The unit of a check of JSON answers."""

_HIGHEST = {"share": 1.0, SHARE_OF_FIELDS: 1.0, "0 to 1": 1.0, "0 to 100": 100.0}
"""By unit, the largest value. The smallest is 0."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Metric:
    """How to show and compare the values of a metric."""

    label: str
    lower_is_better: bool
    unit: str
    meaning: str
    ideal: float | None = None
    """The best value, if it is neither the lowest nor the highest. Rows are ranked by their distance from it."""
    worth_noticing: float = 0.0
    """A change of one test item by at most this value counts as no change."""

    @property
    def highest(self) -> float | None:
        """The largest value, if the values are from 0 to a number; None if they have no such range."""
        return _HIGHEST.get(self.unit)

    @property
    def direction(self) -> str:
        """The direction in words, for headings."""
        if self.ideal is not None:
            return f"{self.ideal:g} is best"
        return "lower is better" if self.lower_is_better else "higher is better"

    @property
    def title(self) -> str:
        """The heading of its values: its name and its direction."""
        return f"{self.label} ({self.direction})"

    def rank_key(self, value: float) -> float:
        """Return a number that is lower the better the value is."""
        if self.ideal is not None:
            return abs(value - self.ideal)
        return value if self.lower_is_better else -value

    def is_better(self, first: float, second: float) -> bool:
        """Return whether the first value is better than the second."""
        return self.rank_key(first) < self.rank_key(second)

    def gain(self, before: float, after: float) -> float:
        """Return how much better the second value is; negative if it is worse."""
        return self.rank_key(before) - self.rank_key(after)


METRICS: dict[str, Metric] = {
    "nats_per_byte": Metric(
        "nats per byte", True, "nats per byte of the reference", "how unexpected the reference answers are", None, 0.01
    ),
    "loss": Metric(
        "loss", True, "nats per answer token", "the same, per token and with the end of the turn", None, 0.05
    ),
    "stop_nats": Metric("end of turn", True, "nats", "how unexpected it is that the reference answers end"),
    "chrf": Metric("chrF", False, "0 to 100", "character n-grams shared with the reference", None, 1.0),
    "rouge_l": Metric("ROUGE-L", False, "0 to 1", "longest common word sequence with the reference", None, 0.01),
    "exact_match": Metric("exact match", False, "share", "answers that are the reference, white space aside"),
    "format_valid": Metric("format valid", False, "share", "answers in the format that the task declares"),
    "fields_match": Metric("fields match", False, "share", "JSON answers whose fields have the reference's values"),
    "call_names": Metric("called tools", False, "share", "answers that call the reference's tools, in any order"),
    "call_arguments": Metric(
        "calls", False, "share", "answers whose calls have the reference's tools and arguments, in any order"
    ),
    "call_order": Metric("call order", False, "share", "answers that call the reference's tools in the same order"),
    "length_ratio": Metric("length ratio", True, "bytes of answer / reference", "1 is as long as the reference", 1.0),
    "general_accuracy": Metric("general accuracy", False, "share", "general questions answered rightly"),
    "general_nats_per_byte": Metric("general nats per byte", True, "nats per byte", "how unexpected general texts are"),
    "general_loss": Metric("general loss", True, "nats per token", "how unexpected general texts are"),
}
"""The metrics that all comparisons share, in display order. A task may define more. `general_loss` is that of older
versions."""
SHORT_TITLES = {
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact",
    "format_valid": "format",
    "length_ratio": "length",
    "general_accuracy": "general acc.",
    "nats_per_byte": "nats/byte",
    "stop_nats": "end",
    "fields_match": "fields",
    "call_names": "called tools",
    "call_arguments": "calls",
    "call_order": "call order",
    "general_nats_per_byte": "general nats/byte",
    "general_loss": "general loss",
}
"""Metric → title of its column, for metrics whose names are too long."""
LONG_TITLES = {
    "nats_per_byte": "Nats per byte of the reference (lower is better)",
    "loss": "Loss, nats per answer token (lower is better)",
    "chrf": "chrF (0 to 100)",
    "rouge_l": "ROUGE-L (0 to 1)",
    "exact_match": "Exact match (0 to 1)",
    "format_valid": "Answers in the declared format (0 to 1)",
    "length_ratio": "Answer length / reference length",
    "general_accuracy": "General accuracy (0 to 1)",
    "stop_nats": "End of turn, nats (lower is better)",
    "fields_match": "JSON answers with the reference's values (0 to 1)",
    "call_names": "Answers that call the reference's tools (0 to 1)",
    "call_arguments": "Answers with the reference's calls and arguments (0 to 1)",
    "call_order": "Answers that call the reference's tools in order (0 to 1)",
    "general_nats_per_byte": "Nats per byte of general text (lower is better)",
    "general_loss": "Loss on general text, nats per token (lower is better)",
}
"""By metric, with its range or direction. Other metrics have no title."""
PER_TOKEN = ("loss", "general_loss")
"""The metrics that are compared only between models with the same vocabulary and template."""
SECOND_KEY = "chrf"
"""The metric of the answers that must not be worse where a likelihood decides."""
ANSWER_METRICS = ("chrf", "rouge_l", "exact_match")
"""The metrics that every task has, computed from the text of an answer."""


def answer_metrics(reference: str, answer: str) -> dict[str, float]:
    """Return chrF (0..100; Popović 2015), ROUGE-L F1 (0..1; Lin 2004) and exact match (0 or 1) of one answer."""
    return {
        "chrf": chrf(reference, answer),
        "rouge_l": float(_rouge_scorer().score(reference, answer)["rougeL"].fmeasure),
        "exact_match": float(answer.split() == reference.split()),
    }


def chrf(reference: str, answer: str) -> float:
    """Return the chrF of a text, from 0 to 100."""
    return float(_chrf_scorer().sentence_score(answer, [reference]).score)


def metric_versions() -> dict[str, str]:
    """Return the versions of code that the values depend on, for the evaluation fingerprint."""
    from importlib.metadata import version

    return {"metrics": VERSION} | {package: version(package) for package in ("lm-eval", "rouge-score", "sacrebleu")}


class _WordTokenizer:
    """A ROUGE tokenizer for any script: that of rouge_score drops everything but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@lru_cache(maxsize=1)
def _chrf_scorer() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_WordTokenizer())
