"""The matrix of a decision: what each candidate meets of each requirement, as the decision itself has it."""

from dataclasses import replace
from functools import cache

import pytest

from ft_pipeline.decide.matrix import matrix
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.requirements import IS_NEW, Cell, Requirements, lacking
from ft_pipeline.decide.sentences import say_all
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.golden.told import decided
from ft_pipeline_tests.release.test_model_card import FACTS


@cache
def court_of(name: str) -> Court:
    world = worlds.make(name)
    return Court(
        world.comparison, world.candidates, world.settings, world.champion, world.exposure, world.rejected or {}
    )


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


@pytest.mark.parametrize("name", NAMES)
def test_what_pages_read_is_what_was_decided(name: str) -> None:
    document = decided(worlds.make(name))
    read = Requirements.of(document)
    assert read.matrix == cells_of(name)
    for row, failed in document["decision"]["failed"].items():
        assert failed or not lacking(read.about(row))
    grid = read.section().grid
    assert grid is not None
    for requirement, *outcomes in grid.cells:
        for row, outcome in zip(read.matrix, outcomes, strict=True):
            of_row = [cell.outcome for cell in read.matrix[row] if cell.requirement == requirement.text]
            assert outcome.text in (of_row or [""])
            assert "fails" not in of_row or outcome.text == "fails"


def test_a_decision_of_an_older_version_has_no_matrix() -> None:
    assert not Requirements.of({"verdict": {}}).matrix and Requirements.of({}).about("qlora") == []


def test_the_card_lists_the_requirements_of_its_row() -> None:
    cells = [
        {"requirement": IS_NEW, "outcome": "fails", "sentence": "is already the champion"},
        {"requirement": "tasks hold", "outcome": "cannot be told", "sentence": "Nothing is known of the task x"},
    ]
    document = {
        "verdict": {"sentence": "Use it.", "basis": ""},
        "exposure": {"before": 0, "tests": 1, "used_up_at": 60},
        "looks": {},
        "matrix": {FACTS.row: cells},
    }
    card = render_card(replace(FACTS, decided=document))
    assert "## Requirements of its release\n\n- ? tasks hold: Nothing is known of the task x\n" in card
    assert "already the champion" not in card
