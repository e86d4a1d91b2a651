"""How often the verdict is wrong, and how often it is open, in worlds whose truth is known.

    python -m benchmarks.verdict_rates

2,000 worlds a line take a few minutes. Results go to benchmarks/results/verdict_rates.json.

A world is a test split on which a prompt is right in a share of the answers, and a tuned model in `lead` points more.
What is hard for one is hard for the other (their normal difficulties correlate by SHARED). Questions of one pattern are
alike (ALIKE), and one cluster. The project's own code makes the claims, decides, and says the verdict.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from benchmarks.worlds import run
from ft_pipeline.decide.bench import Bench, Config
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.outcome import conversations_for, needed_conversations
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.released import Candidate
from ft_pipeline.decide.sources import leads
from ft_pipeline.decide.units import WORTH, worth_over
from ft_pipeline.decide.verdict import ONE_TEST, Summary
from ft_pipeline.evaluation.comparison.leads import Conversations, interval
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.settings.promotion import PromotionSettings

RESULTS = Path(__file__).parent / "results" / "verdict_rates.json"
METRIC, PROMPT, TUNED = "exact_match", "few_shot", "qlora/merged"
SHARED = 0.7
"""Correlation of what is hard for the two models."""
ALIKE = 0.6
"""Correlation of how hard two questions of one pattern are, for both models and for each of them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A truth."""

    right: float
    """Share of right answers of the prompt."""
    lead: float
    """Of the tuned model."""
    rows: int
    """Test conversations."""
    clusters: int | None = None
    """Number of patterns of the questions; None: each is of its own."""

    @property
    def name(self) -> str:
        alike = f" of {self.clusters} patterns" if self.clusters else ""
        return f"{self.right:.0%} right, lead {100 * self.lead:+.0f} points, {self.rows} rows{alike}"


LINES = [
    *(Line(0.87, lead, 134) for lead in (-0.05, 0.0, 0.01, 0.02, 0.03, 0.05, 0.09)),
    *(Line(0.87, lead, 1000) for lead in (-0.05, 0.0, 0.02, 0.05)),
    *(Line(0.5, lead, 400) for lead in (-0.1, 0.0, 0.02, 0.1)),
    Line(0.969, 0.0, 65),
    *(Line(0.87, 0.0, rows, clusters) for rows, clusters in ((65, 10), (134, 15), (134, 40))),
    *(Line(0.5, 0.0, rows, clusters) for rows, clusters in ((134, 15), (134, 40))),
    *(Line(0.87, 0.09, 134, clusters) for clusters in (15, 40)),
]


def answers(line: Line, random: np.random.Generator, rows: int | None = None) -> tuple[Any, ...]:
    """Return which answers of the prompt and of the tuned model are right, and the pattern of each question, each of
    shape (rows,)."""
    count = rows or line.rows
    noise, patterns = random.normal(size=(3, count)), np.arange(count)
    if line.clusters:
        patterns = random.integers(line.clusters, size=count)
        of_patterns = random.normal(size=(3, line.clusters))[:, patterns]
        noise = math.sqrt(ALIKE) * of_patterns + math.sqrt(1 - ALIKE) * noise
    hard = math.sqrt(SHARED) * noise[0] + math.sqrt(1 - SHARED) * noise[1:]
    levels = ndtri(line.right), ndtri(min(line.right + line.lead, 1 - 1e-9))
    prompt, tuned = ((of_model < level).astype(float) for of_model, level in zip(hard, levels, strict=True))
    return prompt, tuned, patterns


def compared(prompt: Any, tuned: Any, patterns: Any) -> Comparison:
    """Return the comparison of a prompt and a tuned model, whose claims the project's own code makes."""
    conversations = Conversations([str(number) for number in patterns])
    right = {PROMPT: prompt, TUNED: tuned, "base": np.zeros_like(prompt)}
    estimates = {
        name: {METRIC: conversations.means(values[:, None], is_rate=True)[0]} for name, values in right.items()
    }
    kinds = {PROMPT: "prompt", TUNED: "merged", "base": "base"}
    scores = {name: {METRIC: interval(found[METRIC])} for name, found in estimates.items()}
    rows = [
        Row(name=name, kind=kinds[name], experiment="qlora", base_model="small", scores=scores[name])
        for name in sorted(right, key=lambda name: -scores[name][METRIC].value)
    ]
    comparison = Comparison(
        test_rows=len(prompt),
        clusters=len(np.unique(patterns)),
        test_items=len(prompt),
        primary_metric=METRIC,
        rules="",
        decided_by="promotion.metric names exact_match.",
        metrics={METRIC: METRICS[METRIC]},
        rows=rows,
    )
    models = [ScoredModel(row.name, row.kind, "qlora", "", {}, {}, Path(), {}) for row in rows]
    bench = Bench(models, {}, estimates, [], Config(primary_metric=METRIC), None, None, comparison)
    kept = Claim(kind="general", row=TUNED, rival="base", verdict="shown")
    return comparison.with_claims([*leads.claims(bench), kept])


def said(comparison: Comparison) -> Verdict:
    """Return the verdict of a first run."""
    kinds: Mapping[str, Any] = {TUNED: "merged", PROMPT: "prompt"}
    candidates = {
        name: Candidate(name=name, kind=kind, experiment="qlora", fingerprint=name * 9) for name, kind in kinds.items()
    }
    decision = decide(Court(comparison, candidates, PromotionSettings()))
    return Summary(comparison, decision, None, has_champion=False).verdict()


@cache
def needed(line: Line) -> float:
    """Return how many test conversations would decide, by the true lead and its true spread."""
    prompt, tuned, _ = answers(line, np.random.default_rng(0), 1_000_000)
    return conversations_for(line.lead, float(np.std(tuned - prompt)), ONE_TEST, WORTH)


def worlds(line: Line, count: int, seed: int) -> Iterator[tuple[str, bool | None]]:
    """Yield the outcome of each world, and whether the range covers the true number; None: there is no range."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        comparison = compared(*answers(line, random))
        found, covers = said(comparison), None
        tuned, prompt = comparison.row(TUNED), comparison.row(PROMPT)
        assert tuned is not None and prompt is not None
        outcome = {"use_tuned": "use", "prompt": "do not"}.get(found.kind, "open")
        if outcome == "open":
            claim = comparison.deciding(tuned, prompt)
            told = needed_conversations(comparison, claim, ONE_TEST, worth_over(comparison, prompt))
            covers = None if line.clusters else told and told.least <= max(needed(line), line.rows + 1) <= told.most
        yield outcome, covers


def measure(line: Line, count: int, seed: int = 0) -> dict[str, Any]:
    """Return the rates of a line: of each outcome, of wrong ones, and of ranges that cover the true number."""
    found = list(worlds(line, count, seed))
    outcomes = Counter(outcome for outcome, _ in found)
    ranges = [covers for _, covers in found if covers is not None]
    rates = {name: outcomes[name] / count for name in ("use", "do not", "open")}
    wrong = {"use": line.lead <= 0, "do not": line.lead >= WORTH}
    return {
        **rates,
        "wrong": sum(rates[name] for name, is_wrong in wrong.items() if is_wrong),
        "range_covers": sum(ranges) / len(ranges) if ranges else None,
        "needed": None if line.clusters else round(needed(line)),
    }


if __name__ == "__main__":
    run(__doc__, RESULTS, LINES, measure)
