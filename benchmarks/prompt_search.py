"""Whether the search of a prompt fools anybody, and whether it finds what is there.

    python -m benchmarks.prompt_search --worlds 400

A world has validation and test questions, and a truth for each prompt: how often its answers are right. Scores are
drawn; the search, its choice and the test on the test rows are the project's own code. 400 worlds of a line take some
ten minutes. Results go to benchmarks/results/prompt_search.json.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worlds import run
from ft_pipeline.evaluation.comparison.estimates import estimate_samples
from ft_pipeline.evaluation.comparison.leads import bounds, values_over
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.prompt_search.search import search
from ft_pipeline.evaluation.prompt_search.space import Space, Variant, variant
from ft_pipeline.evaluation.prompt_search.tries import Measured
from ft_pipeline.settings.prompt_variant import PromptSearchSettings

RESULTS = Path(__file__).parent / "results" / "prompt_search.json"
VALIDATION, TEST = 48, 134
"""Questions."""
ROWS = [f"row {number}" for number in range(24)]
GIVEN = {"given": variant({"system_prompt": "Name the label."}, 4)}
SETTINGS = PromptSearchSettings()
ALIKE = 0.5
"""How much two prompts have in common in the questions that they get right."""
METRIC = "exact_match"


def nothing(tried: Variant) -> float:
    """No prompt is better than another."""
    return 0.0


def examples_help(tried: Variant) -> float:
    """Any examples help a little, as they do not in the test of `nothing`: the given prompt has four."""
    return 0.02 * min(4, tried["few_shot"])


def two_rows_help(tried: Variant) -> float:
    """Two of the 24 rows help as examples, each by ten points."""
    return 0.1 * len({"row 5", "row 11"} & set(tried.get("example_rows", ())))


def each_row_counts(tried: Variant) -> float:
    """Each row has an effect of its own as an example, between -5 and 5 points."""
    effects = np.random.default_rng(0).uniform(-0.05, 0.05, len(ROWS))
    return float(sum(effects[ROWS.index(row)] for row in tried.get("example_rows", ())))


@dataclass(frozen=True)
class Line:
    """A truth."""

    name: str
    gain: Callable[[Variant], float]
    """By how much a prompt is right more often than in 60 % of the questions."""


LINES = [
    Line("no prompt is better than another", nothing),
    Line("examples help, whichever", examples_help),
    Line("two of 24 rows help as examples", two_rows_help),
    Line("each row has an effect of its own", each_row_counts),
]


def rate(line: Line, tried: Variant) -> float:
    """Return how often the answers under a prompt are right."""
    return float(np.clip(0.6 + line.gain(tried), 0.02, 0.98))


def draw(share: float, easy: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return which questions are right. easy: a number between 0 and 1 for each, which all prompts have in common."""
    own = random.random(len(easy))
    return np.where(random.random(len(easy)) < ALIKE, easy, own) < share


def world(line: Line, seed: int) -> dict[str, float]:
    """Return what a search in one world found: the true gain over the given prompt, and whether the test shows one."""
    random = np.random.default_rng(seed)
    easy_validation, easy_test = random.random(VALIDATION), random.random(TEST)

    def measure(tried: Variant) -> Measured:
        right = float(draw(rate(line, tried), easy_validation, random).mean())
        return Measured(-right, right, 1.0 - right, float(tried["few_shot"]))

    space = Space(GIVEN, "", ROWS, SETTINGS.most_examples)
    with tempfile.TemporaryDirectory() as folder:
        found = search(space, measure, Path(folder) / "tries", tries=SETTINGS.tries, seed=seed)
    best, given = found.best.variant, GIVEN["given"]
    samples: dict[str, Any] = {
        name: [
            {"item": str(number), "group": str(number), METRIC: float(right)}
            for number, right in enumerate(draw(rate(line, tried), easy_test, random))
        ]
        for name, tried in (("searched", best), ("given", given))
    }
    values = values_over("given", "searched", METRIC, METRICS[METRIC], estimate_samples(samples, {}))
    low, _ = bounds(values, highest=1.0)
    clear = low is not None and low > 0 and best != given
    return {"gain": rate(line, best) - rate(line, given), "clear": float(clear), "tries": float(len(found.tries))}


def measure(line: Line, count: int, seed: int) -> dict[str, float]:
    """Return the share of clear leads of the searched prompt over the given one, its mean true gain, and tries."""
    worlds = [world(line, seed + number) for number in range(count)]
    return {key: round(float(np.mean([each[key] for each in worlds])), 4) for key in ("clear", "gain", "tries")}


if __name__ == "__main__":
    run(__doc__, RESULTS, LINES, measure)
