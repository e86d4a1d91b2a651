"""What is measured on the answers: names, directions, and the metrics of one answer against its reference."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

VERSION = "2"
"""Part of the evaluation fingerprint: raise it whenever a number below would change."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Metric:
    """How a metric is read."""

    label: str
    lower_is_better: bool
    unit: str
    meaning: str
    ideal: float | None = None
    """Where the best value is neither end: rows are then ranked by their distance from it."""
    worth_noticing: float = 0.0
    """A change of a single test item below this is called no change."""

    @property
    def direction(self) -> str:
        """In words, for headings."""
        if self.ideal is not None:
            return f"{self.ideal:g} is best"
        return "lower is better" if self.lower_is_better else "higher is better"

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        if self.ideal is not None:
            return abs(one - self.ideal) < abs(other - self.ideal)
        return one < other if self.lower_is_better else one > other


METRICS: dict[str, Metric] = {
    "loss": Metric("loss", True, "nats per answer token", "how unexpected the reference answers are", None, 0.05),
    "chrf": Metric("chrF", False, "0 to 100", "character n-grams shared with the reference", None, 1.0),
    "rouge_l": Metric("ROUGE-L", False, "0 to 1", "longest common word sequence with the reference", None, 0.01),
    "exact_match": Metric("exact match", False, "share", "answers that are the reference, white space aside"),
    "format_valid": Metric("format valid", False, "share", "answers in the format that the task declares"),
    "length_ratio": Metric("length ratio", True, "answer / reference tokens", "1 is as long as the reference", 1.0),
    "general_accuracy": Metric("general accuracy", False, "share", "general questions answered rightly"),
    "general_loss": Metric("general loss", True, "nats per token", "how unexpected general texts are"),
}
"""Every metric that all comparisons know, in the order in which it is shown; a task may have others of its own."""
ANSWER_METRICS = ("chrf", "rouge_l", "exact_match")
"""What is measured on the answers of every task."""


def metric_of(document: Mapping[str, Any], name: str) -> Metric:
    """A metric of a comparison document: what it says itself, for the metrics of one task only."""
    own = document.get("metrics", {}).get(name)
    return Metric(**own) if own else METRICS[name]


def shown_metrics(document: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics worth a column, in their order: not exact match where no answer of free text is its reference."""
    found = {name: metric_of(document, name) for name in document["metrics"]}
    matches = [row["scores"]["exact_match"]["value"] for row in document["rows"] if "exact_match" in row["scores"]]
    if not any(matches) and document["primary_metric"] != "exact_match":
        found.pop("exact_match", None)
    return found


def answer_metrics(reference: str, answer: str) -> dict[str, float]:
    """chrF (0..100; Popović 2015), ROUGE-L F1 (0..1; Lin 2004) and exact match (0 or 1) of one answer."""
    return {
        "chrf": float(_chrf().sentence_score(answer, [reference]).score),
        "rouge_l": float(_rouge().score(reference, answer)["rougeL"].fmeasure),
        "exact_match": float(answer.split() == reference.split()),
    }


def metric_versions() -> dict[str, str]:
    """What the numbers depend on beside the data, for the evaluation fingerprint."""
    from importlib.metadata import version

    return {"metrics": VERSION} | {package: version(package) for package in ("lm-eval", "rouge-score", "sacrebleu")}


class _Words:
    """ROUGE's tokens in any script: rouge_score's own tokenizer keeps a-z and 0-9 only."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
