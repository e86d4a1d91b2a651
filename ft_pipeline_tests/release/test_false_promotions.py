"""How often the champion moves to a model that is not better, in simulated comparisons that the rules decide."""

import numpy as np
import pytest

from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.released import Candidate
from ft_pipeline.evaluation.comparison.leads import bounds, p_value
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide import claims
from ft_pipeline_tests.decide.claims import keeps_all
from ft_pipeline_tests.decide.rules import decide

CONVERSATIONS = 134
SETTINGS = PromotionSettings()


def world(random: np.random.Generator, candidates: int, lead: float, equal: bool = True) -> Comparison:
    """Candidates whose true lead over the base model is `lead` standard errors; only of the first, if not equal."""
    shared = random.normal(size=CONVERSATIONS)  # what all candidates find easier than the base model
    values = {}
    for number in range(candidates):
        true = lead if equal or not number else 0.0
        own = 0.6 * shared + 0.8 * random.normal(size=CONVERSATIONS)
        values[f"c{number}/merged"] = own + true / np.sqrt(CONVERSATIONS)
    score = Score(2.0, 1.9, 2.1)
    means = {name: float(found.mean()) for name, found in values.items()}
    rows = [Row(name="base", kind="base", scores={"loss": score})]
    rows += [
        Row(name=name, kind="merged", experiment=name[:2], scores={"loss": Score(2.0 - mean, 0, 0)})
        for name, mean in means.items()
    ]
    leading = {name: found for name, found in values.items() if means[name] > 0}
    leads = [claims.lead(name, "base", means[name], bounds(found), p_value(found)) for name, found in leading.items()]
    return claims.compared(rows, [*leads, *map(keeps_all, values)], CONVERSATIONS)


def moves(candidates: int, lead: float = 0.0, worlds: int = 1000, equal: bool = True) -> float:
    """The share of comparisons in which the champion moves."""
    random = np.random.default_rng(candidates)
    released = {
        f"c{number}/merged": Candidate(
            name=f"c{number}/merged", kind="merged", experiment=f"c{number}", fingerprint=f"{number}" * 64
        )
        for number in range(candidates)
    }
    return np.mean(
        [decide(world(random, candidates, lead, equal), released, SETTINGS, None).move for _ in range(worlds)]
    ).item()


@pytest.mark.parametrize("candidates", [1, 10, *(pytest.param(count, marks=pytest.mark.long) for count in (3, 5, 20))])
def test_candidates_that_are_not_better_rarely_become_champion(candidates: int) -> None:
    """Tested one by one at 2.5 %, the best of ten equal candidates would move the champion in about 15 %."""
    assert moves(candidates, worlds=200) <= 0.05


def test_a_single_better_candidate_is_found() -> None:
    """A lead of 3 standard errors: in 80 % of the worlds if it is alone, in 52 % among nine that are not better."""
    assert moves(1, lead=3.0, worlds=300) == pytest.approx(0.8, abs=0.05)
    assert moves(10, lead=3.0, worlds=100, equal=False) > 0.45


def test_a_lead_that_several_candidates_make_uncertain_is_said() -> None:
    """Clear at 95 %, but one of four."""
    lead = claims.lead("c0/merged", "base", 0.1, (0.01, 0.19), 0.012)
    scores = {"loss": Score(1.9, 1.8, 2.0)}
    rows = [Row(name="base", kind="base", scores={"loss": Score(2.0, 1.9, 2.1)})]
    rows += [
        Row(name=f"c{number}/merged", kind="merged", experiment=f"c{number}", scores=scores) for number in range(4)
    ]
    comparison = claims.compared(rows, [lead, *(keeps_all(row.name) for row in rows[1:])], 134)
    released = {
        row.name: Candidate(name=row.name, kind="merged", experiment=row.experiment, fingerprint=row.name * 9)
        for row in rows[1:]
    }
    decision = decide(comparison, released, SETTINGS, None)
    assert not decision.move
    assert "may be luck: its p-value is 0.012, and at most 0.0067 is wanted" in decision.reasons[0]
    alone = decide(comparison, {"c0/merged": released["c0/merged"]}, SETTINGS, None)
    assert alone.move and alone.evidence["level"] == pytest.approx(0.05 / 3)
