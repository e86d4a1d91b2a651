"""What decision.json keeps of a decision: plain JSON, with the reasons as sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.evidence import evidence
from ft_pipeline.decide.matrix import cells
from ft_pipeline.decide.promote import Court, Decision, TestedCandidate
from ft_pipeline.decide.reasons import describe_win, reasons
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.decide.requirements import ByHand, lacking
from ft_pipeline.decide.words import say_all


class Ruling(BaseModel, frozen=True):
    """Whether the champion moves, and why."""

    move: bool
    name: str | None
    """The row to release; None if the rules release none."""
    reasons: list[str]
    """A line per examined candidate, with what it beats or the requirements that it fails."""
    evidence: dict[str, Any]
    """The numbers behind it (evidence.py); empty if nothing is released."""
    tests: Sequence[TestedCandidate] = []
    failed: Mapping[str, list[str]] = {}
    """The requirements that each examined row fails, by name."""

    def promotion(
        self, candidates: Mapping[str, Candidate], comparison_fingerprint: str | None = None
    ) -> Promotion | None:
        """Return the promotion that champion.promote expects; None if nothing is released."""
        if not self.move or self.name is None:
            return None
        evidence = {"comparison": comparison_fingerprint, **self.evidence}
        return Promotion(candidate=candidates[self.name], reason=self.reasons[-1], evidence=evidence)


def ruling_of(court: Court, decision: Decision) -> Ruling:
    """Return the ruling of a run."""
    failed = {name: say_all(court.comparison, claims) for name, claims in decision.failed.items()}
    row = court.comparison.row(decision.name) if decision.move else None
    found = evidence(court, row) if row else {}
    return Ruling(
        move=decision.move,
        name=decision.name,
        reasons=reasons(court, decision),
        evidence=found,
        tests=decision.tests,
        failed=failed,
    )


def ruling_about(court: Court, row: Row) -> ByHand:
    """Return what `ft promote` reads about one row: the same rules, regardless of better candidates and of manual
    rejections. A run does not examine the adapter of a merged model; a person may release it."""
    if row.name not in {other.name for other in court.examined}:
        court = replace(court, extra=row)
    lacks = lacking(cells(court, row))
    return ByHand(lacks=lacks, reason="" if lacks else describe_win(court, row), evidence=evidence(court, row))
