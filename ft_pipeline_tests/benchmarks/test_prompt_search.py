"""What the search of a prompt finds in invented worlds, and that it does not fool the test on the test rows."""

import pytest

from benchmarks.prompt_search import LINES, measure, world


def test_the_best_of_many_prompts_is_tested_on_other_questions() -> None:
    found = world(LINES[2], seed=3)
    assert 0.0 <= found["gain"] <= 0.2 and found["tries"] > 2


@pytest.mark.long
def test_where_no_prompt_is_better_none_is_shown_to_be() -> None:
    assert measure(LINES[0], 150, 0)["clear"] <= 0.055  # 2.5 %, and 3 points for the simulation


@pytest.mark.long
def test_examples_that_help_are_found() -> None:
    """In 400 worlds, the gain is 0.077 (benchmarks/results/prompt_search.json)."""
    assert measure(LINES[2], 40, 0)["gain"] >= 0.05
