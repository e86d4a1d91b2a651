"""The matrix of a decision: what each candidate meets of each requirement, as the decision itself has it."""

from functools import cache

import pytest

from ft_pipeline.decide.matrix import Cell, matrix
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.words import say_all
from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.version1.convert import as_claims


@cache
def court_of(name: str) -> Court:
    world = worlds.make(name)
    comparison = as_claims(world.comparison)
    return Court(comparison, world.candidates, world.settings, world.champion, world.exposure, world.rejected or {})


@cache
def cells_of(name: str) -> dict[str, list[Cell]]:
    return {row: list(cells) for row, cells in matrix(court_of(name)).items()}


NAMES = list(worlds.MADE)[::6]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_fails_stands_in_the_matrix(name: str) -> None:
    court, cells = court_of(name), cells_of(name)
    decision = decide(court)
    assert list(cells) == list(decision.failed)
    for row, claims in decision.failed.items():
        missing = {cell.sentence for cell in cells[row] if cell.outcome != "holds"}
        rejected = {claim.because for claim in claims} & {"rejected"}
        assert rejected or set(say_all(court.comparison, claims)) <= missing
    if decision.move and decision.name is not None:
        assert all(cell.outcome == "holds" for cell in cells[decision.name])


def test_every_outcome_is_in_some_world() -> None:
    found = {cell.outcome for name in NAMES for cells in cells_of(name).values() for cell in cells}
    assert found == {"holds", "fails", "cannot be told"}
