"""Every template of a sentence is rendered, and every kind of claim has its sentences."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from ft_pipeline.decide.claim import FACTS as FACTS_OF
from ft_pipeline.decide.claim import Claim, KeptFacts, Verdict, verdict_of
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.sentences import SENTENCES, say, say_of
from ft_pipeline.evaluation.comparison.result_records import ScoredTwice
from ft_pipeline.evaluation.comparison.score import Score

FACTS: dict[str, dict[str, Any]] = {
    "lead": {"tries": "one test", "level": 0.05},
    "opinion": {
        "rated": 20,
        "judged": 0,
        "because": "few",
        "changed": 0,
        "may_decide": True,
        "tries": "one test",
        "level": 0.05,
    },
    "champion": {"experiment": "a", "name": "a/merged", "number": 3},
    "recipe": {"leads": [0.1, 0.2, 0.3]},
    "screen": {"error": 0.1},
    "slice": {"more": 12},
    "rail": {"fault": "repeat themselves", "faults": 3},
    **{
        kind: {
            "lost": 3,
            "won": 1,
            "needed": 90,
            "before": 0.5,
            "after": 0.4,
            "is_rate": True,
            "wanted": "declined",
            "base": "base",
            "because": "it was not asked",
        }
        for kind in ("general", "probes", "task")
    },
}
"""By kind, what its sentences name besides the fields of a claim."""


def compared(*claims: Claim) -> Comparison:
    scores = {"loss": Score(2.0, 1.9, 2.1), "chrf": Score(20.0, 19.0, 21.0)}
    rows = [
        Row(name="a/merged", kind="merged", experiment="a", learned_from="preferences", scores=scores),
        Row(name="base", kind="base", scores=scores),
    ]
    return Comparison(
        test_rows=60,
        test_items=60,
        primary_metric="loss",
        rules="3",
        fingerprint="f",
        rows=rows,
        claims=claims,
        scored_twice=ScoredTwice(row="base", answers=60, differing=2, spread=0.03),
    )


def claim(kind: str, outcome: str) -> Claim:
    verdicts: dict[str, Verdict] = {"shown": "shown", "gain": "shown", "refuted": "refuted", "void": "void"}
    ends = {"value": 0.02, "low": 0.01, "high": 0.05} if outcome in ("gain", "shown") else {}
    return Claim(
        kind=kind,
        row="a/merged",
        rival="base",
        measure="chrf" if kind == "answers" else "people" if kind == "opinion" else "loss",
        scope="refund",
        limit=-0.05,
        p=0.01,
        count=60,
        verdict=verdicts.get(outcome, "open"),
        because="" if outcome in ("shown", "gain", "refuted", "open", "void") else outcome,
        facts=FACTS.get(kind, {}),
        **{"value": -0.02, "low": -0.03, "high": 0.01, **ends},
    )


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_each_template_is_rendered(name: str) -> None:
    kind, _, outcome = name.partition(".")
    said, lead = claim(kind, outcome), claim("lead", "shown")
    sentence = say(compared(said, lead), said)
    assert sentence and not re.search(r"[{}]|None|nan", sentence)
    assert not sentence.endswith(".")
    assert say_of(compared(said, lead), said).startswith("a/merged")


def test_a_claim_is_shown_if_its_bound_is_beyond_the_limit() -> None:
    assert [verdict_of(0.1, 0.3), verdict_of(-0.3, -0.1), verdict_of(-0.1, 0.1), verdict_of(None, None)] == [
        "shown",
        "refuted",
        "open",
        "open",
    ]
    assert verdict_of(-0.04, 0.1, -0.05) == "shown" and verdict_of(-0.2, -0.06, -0.05) == "refuted"


def test_a_lead_is_the_same_from_the_other_side() -> None:
    lead = claim("lead", "shown")
    assert lead.reversed.verdict == "refuted" and lead.reversed.p is None
    assert lead.reversed.reversed.model_copy(update={"p": lead.p}) == lead
    found = compared(lead)
    row, base = found.rows
    assert found.lead(row, base) == lead and found.lead(base, row) == lead.reversed
    assert found.leads(row, base) and not found.leads(base, row)
    assert found.ahead(base, row) == lead


@pytest.mark.parametrize("kind", sorted({name.partition(".")[0] for name in SENTENCES} & FACTS_OF.keys()))
def test_the_facts_of_a_kind_are_of_one_type(kind: str) -> None:
    said = claim(kind, "shown")
    assert type(said.facts) is FACTS_OF[kind]
    assert Claim.model_validate(said.to_json()) == said
    with pytest.raises(ValidationError):
        Claim.model_validate({**said.to_json(), "facts": {"unheard_of": 1}})


def test_facts_of_another_kind_are_not_told() -> None:
    with pytest.raises(AssertionError, match="lead"):
        claim("lead", "shown").told(KeptFacts)
