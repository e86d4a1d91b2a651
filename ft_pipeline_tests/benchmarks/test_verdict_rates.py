"""How often the verdict is wrong, and what it finds, in a few of the worlds of benchmarks/verdict_rates.py."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.verdict_rates import LINES, Line, answers, compared, measure, said
from ft_pipeline.decide.comparison import MIN_CLUSTERS

WORLDS = 300
CHANCE = 0.02
"""What a rate of 3 to 5 % may differ by among so many worlds."""


USUAL = {
    *(Line(0.87, lead, 134) for lead in (-0.05, 0.0, 0.05, 0.09)),
    Line(0.969, 0.0, 65),
    *(Line(0.87, 0.0, rows, clusters) for rows, clusters in ((65, 10), (134, 40))),
}
"""Of each kind of world one or more, besides those in which half of the answers are right. The others are long."""


def worlds(chosen: list[Line]) -> list[Any]:
    return [pytest.param(line, id=line.name, marks=() if line in USUAL else pytest.mark.long) for line in chosen]


@cache
def measured(line: Line) -> dict[str, Any]:
    return measure(line, WORLDS)


@pytest.mark.parametrize("line", worlds([line for line in LINES if line.rows <= 400]))
def test_a_verdict_that_is_wrong_is_rare(line: Line) -> None:
    assert measured(line)["wrong"] <= 0.05 + CHANCE


@pytest.mark.parametrize("line", worlds([line for line in LINES if line.clusters and not line.lead]))
def test_equal_models_seldom_lead_where_questions_are_alike(line: Line) -> None:
    found = measured(line)
    assert found["use"] <= 0.04
    assert line.clusters is not None and (line.clusters >= MIN_CLUSTERS or found["open"] == 1)


def test_they_would_lead_often_if_each_question_counted_by_itself() -> None:
    line, random = Line(0.87, 0.0, 134, 15), np.random.default_rng(0)
    worlds = (answers(line, random)[:2] for _ in range(WORLDS))
    kinds = [said(compared(*right, np.arange(line.rows))).kind for right in worlds]
    assert kinds.count("use_tuned") > 0.08 * WORLDS


def test_a_lead_of_nine_points_is_found_on_134_rows() -> None:
    assert measured(Line(0.87, 0.09, 134))["use"] >= 0.6


def test_without_a_bound_nothing_is_said_against_tuning() -> None:
    """At a lead of 5 points, "do not fine-tune" was said in 75 % of the worlds: nothing had been shown."""
    assert measured(Line(0.87, 0.05, 134))["do not"] <= CHANCE


@pytest.mark.parametrize("lead", [-0.05, 0.0, 0.05])
def test_the_range_of_test_conversations_covers_the_true_number(lead: float) -> None:
    assert measured(Line(0.87, lead, 134))["range_covers"] >= 0.8 - 2 * CHANCE
