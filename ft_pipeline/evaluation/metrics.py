"""What is measured on the answers: names, directions, and the metrics of one answer against its reference."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

VERSION = "1"
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


METRICS: dict[str, Metric] = {
    "loss": Metric("loss", True, "nats per answer token", "how unexpected the reference answers are", None, 0.05),
    "chrf": Metric("chrF", False, "0 to 100", "character n-grams shared with the reference", None, 1.0),
    "rouge_l": Metric("ROUGE-L", False, "0 to 1", "longest common word sequence with the reference", None, 0.01),
    "length_ratio": Metric("length ratio", True, "answer / reference tokens", "1 is as long as the reference", 1.0),
    "general_accuracy": Metric("general accuracy", False, "share", "general questions answered rightly"),
    "general_loss": Metric("general loss", True, "nats per token", "how unexpected general texts are"),
}
"""Every metric that a comparison knows, in the order in which it is shown."""


def answer_metrics(reference: str, answer: str) -> dict[str, float]:
    """chrF (0..100; Popović 2015) and ROUGE-L F1 (0..1; Lin 2004) of one answer."""
    return {
        "chrf": float(_chrf().sentence_score(answer, [reference]).score),
        "rouge_l": float(_rouge().score(reference, answer)["rougeL"].fmeasure),
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
