"""What people read about each golden world is as recorded. `python -m ft_pipeline_tests.golden.record` renews it."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import pytest

from ft_pipeline.decide import advise, observations
from ft_pipeline.decide.claim import Verdict
from ft_pipeline.decide.conclusion import Kind
from ft_pipeline.evaluation.model_kinds import ModelKind
from ft_pipeline_tests.golden import invented, worlds
from ft_pipeline_tests.golden.record import TOLD, UNREACHED
from ft_pipeline_tests.golden.shop import World
from ft_pipeline_tests.golden.told import decided, desk, tell
from ft_pipeline_tests.golden.unreached import unreached

RENEW = "If this is meant, run `python -m ft_pipeline_tests.golden.record`, and read the diff"


@cache
def made(name: str) -> World:
    return worlds.make(name)


@cache
def told(name: str) -> str:
    return tell(made(name))


@cache
def decision_of(name: str) -> dict[str, Any]:
    return decided(made(name))


@pytest.mark.parametrize("name", worlds.MADE)
def test_a_world_is_told_as_recorded(name: str) -> None:
    recorded = (TOLD / f"{name}.txt").read_text(encoding="utf-8").split("\n")
    assert told(name).split("\n") == recorded, RENEW


def test_no_record_is_without_a_world() -> None:
    assert {path.stem for path in TOLD.glob("*.txt")} == set(worlds.MADE)


def test_the_sentences_that_no_world_tells_are_listed() -> None:
    """A new sentence needs a world that tells it, or stands in unreached.txt."""
    lines = [repr(template) for template in unreached(map(told, worlds.MADE))]
    assert lines == UNREACHED.read_text(encoding="utf-8").splitlines(), RENEW


def _fired() -> Iterator[str]:
    """Yield the rules of the recommendation that apply in some world."""
    for name in worlds.MADE:
        asked = desk(made(name), decision_of(name))
        deciding, found = next((rule, found) for rule in advise.RULES if (found := rule(asked)))
        yield deciding.__name__
        yield from (rule.__name__ for rule in observations.OBSERVATIONS if rule(asked, found))


def test_the_worlds_have_every_verdict_rule_and_kind_of_row() -> None:
    verdicts = {decision_of(name)["verdict"]["kind"] for name in worlds.MADE}
    assert verdicts == set(get_args(Kind))
    assert {rule.__name__ for rule in (*advise.RULES, *observations.OBSERVATIONS)} - set(_fired()) == set()
    kinds = {row.kind for name in worlds.MADE for row in made(name).comparison.rows}
    assert kinds == set(get_args(ModelKind))
    kept = ("probes", "task")
    checked = {claim.verdict for name in worlds.MADE for claim in made(name).comparison.claims if claim.kind in kept}
    assert checked == set(get_args(Verdict))


def test_invented_worlds_are_decided_and_are_the_same_again() -> None:
    bases = [made(name) for name in worlds.MADE]
    first, again = ([decided(world) for world in invented.invent(1, 60, bases)] for _ in range(2))
    assert first == again
    assert len({document["verdict"]["kind"] for document in first}) >= 5


def test_a_world_is_the_same_again() -> None:
    name = next(iter(worlds.MADE))
    assert tell(worlds.make(name)) == told(name)
