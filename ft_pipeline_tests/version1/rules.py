"""The rules of this version, asked about records of version 1."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.decide import advise, first_screen, markdown, observations, plots, slice_table
from ft_pipeline.decide import recommend as decide_recommend
from ft_pipeline.decide.comparison import Comparison as Claims
from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.desk import Decided, Desk
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.promote import Court
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.decide.requirements import ByHand
from ft_pipeline.decide.ruling import ruling_about
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline_tests.decide import rules
from ft_pipeline_tests.decide.rules import NOT_EXPOSED, Decision
from ft_pipeline_tests.version1.convert import as_claims
from ft_pipeline_tests.version1.records import Comparison
from ft_pipeline_tests.version1.row_records import ComparisonRow


def decide(comparison: Comparison, *others: Any, **named: Any) -> Decision:
    """What a run decides."""
    return rules.decide(as_claims(comparison), *others, **named)


def by_hand(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    row: ComparisonRow,
    exposure: Exposure = NOT_EXPOSED,
) -> ByHand:
    """What `ft promote` reads about one row."""
    claims = as_claims(comparison)
    found = claims.row(row.name)
    assert found is not None
    return ruling_about(Court(claims, candidates, settings, champion, exposure), found)


def verdict(comparison: Comparison, *others: Any) -> Verdict:
    """The verdict that follows from a decision."""
    return rules.verdict(as_claims(comparison), *others)


@dataclass(frozen=True)
class ComparisonFacts:
    """What a recommendation is made from."""

    comparison: Comparison
    experiments: Mapping[str, Mapping[str, Any]]
    min_test_rows: int
    decided: Decided | None = None
    at_hand: DataAtHand | None = None

    @property
    def desk(self) -> Desk:
        known = self.experiments, self.min_test_rows, self.decided, self.at_hand
        return rules.desk_of(as_claims(self.comparison), *known)


@dataclass(frozen=True)
class Recommendation:
    """The answer of the rule that decides."""

    decision: str
    reason: str
    row: ComparisonRow | None = None


def recommend(facts: ComparisonFacts) -> dict[str, Any]:
    """The recommendation, without its verdict."""
    return decide_recommend.recommend(facts.desk)


def prompting_is_enough(facts: ComparisonFacts) -> advise.Advice | None:
    return advise.prompting_is_enough(facts.desk)


def tuning_wins(facts: ComparisonFacts) -> advise.Advice | None:
    return advise.tuning_wins(facts.desk)


def observe_one_training(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    return observations.observe_one_training(facts.desk, _advice(facts, recommendation))


def observe_incumbent(facts: ComparisonFacts, recommendation: Recommendation) -> str | None:
    return observations.observe_incumbent(facts.desk, _advice(facts, recommendation))


def _advice(facts: ComparisonFacts, said: Recommendation) -> advise.Advice:
    row = facts.desk.comparison.row(said.row.name) if said.row else None
    return advise.Advice(said.decision, said.reason, row)


def _with_row(comparison: Comparison, row: ComparisonRow) -> tuple[Claims, Row]:
    """The comparison with this row in place of the one of its name."""
    rows = [row if each.name == row.name else each for each in comparison.rows]
    claims = as_claims(replace(comparison, rows=rows))
    found = claims.row(row.name)
    assert found is not None
    return claims, found


def lights(
    comparison: Comparison, row: ComparisonRow, exposure: Mapping[str, Any] | None = None
) -> list[first_screen.Light]:
    claims, found = _with_row(comparison, row)
    return first_screen.lights(claims, found, exposure)


def risks(
    comparison: Comparison, row: ComparisonRow, exposure: Mapping[str, Any] | None = None, looks: int = 0
) -> list[str]:
    claims, found = _with_row(comparison, row)
    return first_screen.risks(claims, found, exposure, looks)


def markdown_table(comparison: Comparison) -> str:
    return markdown.markdown_table(as_claims(comparison))


def score_picture(comparison: Comparison) -> bytes:
    return plots.score_picture(as_claims(comparison))


def lead_picture(comparison: Comparison) -> bytes | None:
    return plots.lead_picture(as_claims(comparison))


def learning_curve_picture(comparison: Comparison) -> bytes | None:
    return plots.learning_curve_picture(as_claims(comparison))


def slice_picture(comparison: Comparison, of: ComparisonRow | None = None) -> bytes | None:
    claims = as_claims(comparison)
    return plots.slice_picture(claims, claims.row(of.name) if of else None)


def slices_of(comparison: Comparison, row: ComparisonRow | None = None) -> slice_table.SlicesOfRow | None:
    claims = as_claims(comparison)
    return slice_table.slices_of(claims, claims.row(row.name) if row else None)
