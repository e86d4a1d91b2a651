"""A comparison.json of version 1 is read as the claims that the sources make, and is decided in the same way."""

from typing import Any

import pytest

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import comparison_of, whole_comparison_of
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.ruling import ruling_of
from ft_pipeline.errors import UserError
from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.version1.convert import as_version_1

NAMES = list(worlds.MADE)[::6]
COMPARED = ("value", "low", "high", "limit", "p", "verdict", "because", "count")
WITHOUT_COUNT = ("lead", "answers", "replaces", "share", "recipe")
"""Kinds of claims of which version 1 did not say on how many conversations they rest."""


def key(claim: Claim) -> tuple[Any, ...]:
    """What identifies a claim. A lead that is not known has no direction."""
    rows = (claim.row, claim.rival)
    return (claim.kind, *(sorted(rows) if claim.verdict == "unknown" else rows), claim.measure, claim.scope)


def told(comparison: Comparison) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The claims that version 1 had, too."""
    claims = [claim for claim in comparison.claims if claim.because != "tokens"]
    claims = [claim for claim in claims if claim.because != "no_evidence" or claim.measure == comparison.primary]
    return {
        key(claim): tuple(
            getattr(claim, name) for name in COMPARED if name != "count" or claim.kind not in WITHOUT_COUNT
        )
        for claim in claims
        if claim.kind != "slice"
    }


@pytest.mark.parametrize("name", NAMES)
def test_version_1_is_read_as_the_same_claims(name: str) -> None:
    world = worlds.make(name)
    found = world.comparison
    again = whole_comparison_of(as_version_1(found).to_json())
    assert again.rows == found.rows
    assert told(again) == told(found)
    stored = whole_comparison_of(found.to_json())
    assert stored.to_json() == found.to_json() and list(stored.claims) == list(found.claims)
    rulings = []
    for comparison in (found, again, stored):
        court = Court(
            comparison, world.candidates, world.settings, world.champion, world.exposure, world.rejected or {}
        )
        rulings.append(ruling_of(court, decide(court)).model_dump())
    assert rulings[0] == rulings[1] == rulings[2]


@pytest.mark.parametrize(
    "document",
    [{"version": 3, "claims": []}, {"version": 2}, {"rows": 5}, {}, {"version": 2, "claims": [{"kind": "later"}]}],
    ids=str,
)
def test_a_document_of_a_later_version_is_refused_in_a_sentence(document: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not written by this version of ft or an older one"):
        comparison_of(document)
