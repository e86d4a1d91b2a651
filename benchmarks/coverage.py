"""How often a 95 % interval contains the truth, and how often a lead is called clear that is none.

    python -m benchmarks.coverage

2,000 worlds a line take a few minutes. Results go to benchmarks/results/coverage.json.

A world is a test split whose truth is known: the records that scoring leaves, drawn at random. The project's own code
makes the estimates, intervals and leads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worlds import run
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.comparison.leads import bounds, interval, values_over
from ft_pipeline.evaluation.metrics.classification import Classification
from ft_pipeline.evaluation.metrics.definitions import METRICS, SHARE_OF_FIELDS, Metric
from ft_pipeline.settings.checks import MACRO_F1

RESULTS = Path(__file__).parent / "results" / "coverage.json"
TUNED, PROMPT = "qlora/merged", "few_shot"
FIELDS, TOPIC = "fields", "topic"
LABELS = {"refund": 0.4, "late": 0.3, "broken": 0.2, "account": 0.08, "other": 0.02}
"""With their shares of the questions."""
HITS = {"refund": 0.95, "late": 0.9, "broken": 0.85, "account": 0.8, "other": 0.6}
"""With how often they are recognized. A wrong answer is each of the other labels equally often."""
CHECK = Classification(TOPIC, list(LABELS))
OWN = {FIELDS: Metric(FIELDS, False, SHARE_OF_FIELDS, ""), **CHECK.definitions}
WRONG = 0.4
"""Mean share of right fields in an answer that has a fault."""

Random = np.random.Generator
Records = list[dict[str, Any]]
World = Mapping[str, Records]
"""The records of samples.parquet, by model."""


@dataclass(frozen=True, slots=True)
class Line:
    """A truth."""

    name: str
    metric: str
    draw: partial[World]
    truth: float
    """Of the value of TUNED, or of its lead over PROMPT."""

    @property
    def rows(self) -> int:
        """The test conversations."""
        return int(self.draw.keywords["rows"])

    @property
    def is_lead(self) -> bool:
        return self.name.startswith("lead")


def records(columns: Mapping[str, Iterable[Any]], groups: Iterable[int] | None = None) -> Records:
    """Return the records of one model. groups: the conversation of each answer; None: each is one of its own."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    numbers = range(len(rows)) if groups is None else groups
    return [{"group": f"{number:05d}", **row} for number, row in zip(numbers, rows, strict=True)]


def likelihoods(nats_per_byte: Any, sizes: Any) -> Records:
    return records({"content_nats": nats_per_byte * sizes, "content_bytes": sizes})


# --- leads ------------------------------------------------------------------------------------------------------------


def nats(random: Random, rows: int, gain: float, noise: float, rare: float = 0.0, loss: float = 0.0) -> World:
    """A tuned model that needs `gain` nats per byte less (± noise), and in a share `rare` of the rows `loss` more."""
    sizes = random.integers(50, 400, size=rows)
    prompt = random.lognormal(np.log(0.8), 0.3, size=rows)
    leads = np.where(random.random(rows) < rare, -loss, random.normal(gain, noise, size=rows))
    return {TUNED: likelihoods(prompt - leads, sizes), PROMPT: likelihoods(prompt, sizes)}


def chrf(random: Random, rows: int, gain: float, noise: float, rare: float = 0.0) -> World:
    """The same with chrF of 20 to 60, where the answers of a share `rare` of the rows have 0."""
    prompt = random.uniform(20, 60, size=rows)
    tuned = np.where(random.random(rows) < rare, 0.0, np.clip(prompt + random.normal(gain, noise, size=rows), 0, 100))
    return {TUNED: records({"chrf": tuned}), PROMPT: records({"chrf": prompt})}


def rates(random: Random, rows: int, rate: float, most: int) -> World:
    """Two models that are right equally often, in conversations of 1 to `most` like answers."""
    sizes = random.integers(1, most + 1, size=rows)
    groups = np.repeat(np.arange(rows), sizes)
    return {
        name: records({"exact_match": np.repeat(random.random(rows) < rate, sizes).astype(float)}, groups)
        for name in (TUNED, PROMPT)
    }


# --- values -----------------------------------------------------------------------------------------------------------


def one_rate(random: Random, rows: int, rate: float, most: int = 1) -> World:
    return {TUNED: rates(random, rows, rate, most)[TUNED]}


def fields(random: Random, rows: int, right: float, prompt: float) -> World:
    """Answers of which a share (`right` of the tuned model's) has all fields right, and the others 0 to 4 of 5."""
    world = {}
    for name, share in ((TUNED, right), (PROMPT, prompt)):
        faulty = random.integers(0, 5, size=rows) / 5
        world[name] = records({FIELDS: np.where(random.random(rows) < share, 1.0, faulty)})
    return world


def labels(random: Random, rows: int, models: Iterable[str]) -> World:
    """Labels of the references, and those of models that recognize them by HITS."""
    names, shares = list(LABELS), list(LABELS.values())
    expected = random.choice(len(names), size=rows, p=shares)
    hits = np.array(list(HITS.values()))[expected]
    world = {}
    for model in models:
        others = (expected + random.integers(1, len(names), size=rows)) % len(names)
        found = np.where(random.random(rows) < hits, expected, others)
        columns = {f"{TOPIC}/expected": [names[at] for at in expected], f"{TOPIC}/found": [names[at] for at in found]}
        made = records(columns)
        of_all = CHECK.score_all(made)[f"{TOPIC}/{MACRO_F1}"]
        world[model] = [{**record, f"{TOPIC}/{MACRO_F1}": value} for record, value in zip(made, of_all, strict=True)]
    return world


def true_macro_f1() -> float:
    """Return macro-F1 of a model that recognizes the labels by HITS, in all questions that there may be."""
    missed = {name: share * (1 - HITS[name]) for name, share in LABELS.items()}
    named = {
        name: share * HITS[name] + (sum(missed.values()) - missed[name]) / (len(LABELS) - 1)
        for name, share in LABELS.items()
    }
    return float(np.mean([2 * LABELS[name] * HITS[name] / (LABELS[name] + named[name]) for name in LABELS]))


def likelihood(random: Random, rows: int) -> World:
    return {TUNED: nats(random, rows, 0.0, 0.1)[PROMPT]}


def similarity(random: Random, rows: int) -> World:
    return {TUNED: chrf(random, rows, 0.0, 10.0)[PROMPT]}


def rarely_worse(rows: int, rare: float, loss: float) -> Line:
    """Two models that are equally good: what one gains elsewhere, it loses in a share `rare` of the rows."""
    return Line(
        f"lead, nats per byte: {loss:.1f} worse on {rare:.0%} of {rows} rows, slightly better elsewhere",
        "nats_per_byte",
        partial(nats, rows=rows, gain=loss * rare / (1 - rare), noise=0.01, rare=rare, loss=loss),
        0.0,
    )


NATS_PER_BYTE = 0.8 * np.exp(0.3**2 / 2)
LINES = [
    *(rarely_worse(rows, 0.03, loss) for rows, loss in ((50, 0.4), (50, 0.8), (100, 0.4))),
    *(rarely_worse(rows, 0.01, loss) for rows, loss in ((50, 1.0), (100, 1.0), (100, 2.0), (200, 1.0))),
    *(
        Line(
            f"lead, chrF: empty answers on {rare:.0%} of {rows} rows, slightly better elsewhere",
            "chrf",
            partial(chrf, rows=rows, gain=40 * rare / (1 - rare), noise=0.5, rare=rare),
            0.0,
        )
        for rows, rare in ((50, 0.03), (50, 0.01), (100, 0.01))
    ),
    *(
        Line(f"lead, nats per byte: {rows} rows", "nats_per_byte", partial(nats, rows=rows, gain=0.0, noise=0.15), 0.0)
        for rows in (50, 134, 400)
    ),
    *(
        Line(f"lead, chrF: {rows} rows", "chrf", partial(chrf, rows=rows, gain=0.0, noise=12.0), 0.0)
        for rows in (50, 134, 400)
    ),
    *(
        Line(
            f"lead, share of fields: {right:.0%} of {rows} rows all right",
            FIELDS,
            partial(fields, rows=rows, right=right, prompt=right),
            0.0,
        )
        for rows, right in ((50, 0.97), (134, 0.8))
    ),
    *(
        Line(
            f"lead, exact match: {rate:.0%} right, {rows} conversations of 1 to {most} like answers",
            "exact_match",
            partial(rates, rows=rows, rate=rate, most=most),
            0.0,
        )
        for rows, rate, most in ((134, 0.87, 1), (50, 0.9, 6), (134, 0.9, 6))
    ),
    *(
        Line(
            f"lead, macro-F1: a label with 2 % of {rows} rows",
            f"{TOPIC}/{MACRO_F1}",
            partial(labels, rows=rows, models=(TUNED, PROMPT)),
            0.0,
        )
        for rows in (50, 100, 400)
    ),
    *(
        Line(
            f"share of fields: {right:.0%} of {rows} rows all right",
            FIELDS,
            partial(fields, rows=rows, right=right, prompt=0.7),
            right + (1 - right) * WRONG,
        )
        for rows, right in ((50, 0.97), (50, 0.99), (100, 0.99), (134, 0.8))
    ),
    *(
        Line(
            f"macro-F1: a label with 2 % of {rows} rows",
            f"{TOPIC}/{MACRO_F1}",
            partial(labels, rows=rows, models=(TUNED,)),
            true_macro_f1(),
        )
        for rows in (50, 100, 400)
    ),
    *(
        Line(
            f"exact match: {rate:.0%} right, {rows} conversations of 1 to 6 like answers",
            "exact_match",
            partial(one_rate, rows=rows, rate=rate, most=6),
            rate,
        )
        for rows, rate in ((20, 0.5), (20, 0.9), (50, 0.5), (50, 0.9), (50, 0.95), (134, 0.95))
    ),
    *(
        Line(
            f"exact match: {rate:.0%} right, {rows} rows", "exact_match", partial(one_rate, rows=rows, rate=rate), rate
        )
        for rows, rate in ((50, 0.9), (134, 0.5), (134, 0.87), (134, 0.97))
    ),
    Line("nats per byte: 50 rows", "nats_per_byte", partial(likelihood, rows=50), float(NATS_PER_BYTE)),
    Line("chrF: 50 rows", "chrf", partial(similarity, rows=50), 40.0),
]


OUT_OF_REACH = [rarely_worse(200, 0.01, 3.0)]
"""A failure that costs 3.6 times the mean, in one row of a hundred: a seventh of the samples do not have it, and
nothing in them says that it may be so large."""


def ends(line: Line, random: Random) -> tuple[float, float]:
    """Return the ends of the interval in a world."""
    estimates = estimate_samples(line.draw(random), OWN)
    metric = (METRICS | OWN)[line.metric]
    if line.is_lead:
        values = values_over(PROMPT, TUNED, line.metric, metric, estimates)
        low, high = bounds(values, highest=metric.highest)
    else:
        score = interval(estimates[TUNED][line.metric])
        low, high = score.low, score.high
    assert low is not None and high is not None
    return low, high


def measure(line: Line, count: int, seed: int = 0) -> dict[str, float]:
    """Return the rates of a line: of intervals that contain the truth, that are wholly above it (of a lead of 0: that
    is a false clear lead), and without a width; and the mean width."""
    random = np.random.default_rng(seed)
    low, high = np.array([ends(line, random) for _ in range(count)]).T
    return {
        "covers": float(np.mean((low <= line.truth + 1e-12) & (line.truth - 1e-12 <= high))),
        "above": float(np.mean(low > line.truth + 1e-12)),
        "no_width": float(np.mean(high - low < 1e-9)),
        "highest": float(high.max()),
        "width": float(np.mean(high - low)),
    }


def rounded(line: Line, count: int, seed: int) -> dict[str, float]:
    """Return `measure` as it is written down."""
    return {key: round(rate, 4) for key, rate in measure(line, count, seed).items()}


if __name__ == "__main__":
    run(__doc__, RESULTS, [*LINES, *OUT_OF_REACH], rounded)
