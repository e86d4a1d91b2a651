"""The rules, asked in few lines: what a run decides on a comparison, what the verdict is, and what is recommended."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SkipValidation

from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.desk import Decided, Desk
from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.decide.matrix import matrix
from ft_pipeline.decide.promote import Court
from ft_pipeline.decide.promote import Decision as OfClaims
from ft_pipeline.decide.promote import decide as decide_all
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.decide.requirements import Cell
from ft_pipeline.decide.ruling import Ruling, ruling_of
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.decide.verdict import Summary
from ft_pipeline.settings.promotion import PromotionSettings

NOT_EXPOSED = Exposure()


class Decision(Ruling, frozen=True):
    """A ruling, with the claims that it rests on."""

    of_claims: SkipValidation[OfClaims] | None = None
    matrix: Mapping[str, Sequence[Cell]] = {}


def champion_record(name: str, experiment: str | None, fingerprint: str, **changed: Any) -> ChampionRecord:
    """The record of the first champion, a merged model. changed: further fields, or others."""
    fields = {
        "sequence": 1,
        "name": name,
        "kind": "merged",
        "experiment": experiment,
        "fingerprint": fingerprint,
        "fingerprints": {},
        "since": "2026-01-01T00:00:00+00:00",
        "reason": "better",
        "forced": False,
        "previous": None,
        "previous_sequence": None,
        "evidence": {},
    }
    return ChampionRecord(**fields | changed)


def decide(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    rejected: Mapping[str, int] | None = None,
    exposure: Exposure = NOT_EXPOSED,
) -> Decision:
    """What a run decides."""
    court = Court(comparison, candidates, settings, champion, exposure, rejected or {})
    decision = decide_all(court)
    return Decision(**vars(ruling_of(court, decision)), of_claims=decision, matrix=matrix(court))


def verdict(
    comparison: Comparison, decision: Decision, champion_row: str | None, has_champion: bool | None = None
) -> Verdict:
    """The verdict that follows from a decision."""
    champion = comparison.row(champion_row)
    has = champion is not None if has_champion is None else has_champion
    assert decision.of_claims is not None
    return Summary(comparison, decision.of_claims, champion, has, decision.reasons[-1]).verdict()


def document_of(decision: Decision, said: Verdict, champion_row: str | None) -> dict[str, Any]:
    """What decision.json says of a decision."""
    ruling = decision.model_dump(exclude={"of_claims", "matrix"})
    return {"verdict": said.model_dump(), "champion_row": champion_row, "decision": ruling}


def leads(comparison: Comparison, measure: str | None = None) -> list[Claim]:
    """The leads that were measured. measure: on one metric."""
    found = [claim for claim in comparison.of_kind("lead") if claim.value is not None]
    return [claim for claim in found if measure in (None, claim.measure)]


def desk_of(
    comparison: Comparison,
    experiments: Mapping[str, Mapping[str, Any]],
    min_test_rows: int,
    decided: Decided | None = None,
    at_hand: DataAtHand | None = None,
) -> Desk:
    """What a recommendation is made from."""
    fits = at_hand.describe_fits(comparison) if at_hand else ""
    return Desk(comparison, as_shown(comparison), experiments, min_test_rows, decided, fits)
