"""What decision.json keeps of a decision: plain JSON, with the reasons as sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from ft_pipeline.decide.comparison import Row
from ft_pipeline.decide.evidence import evidence
from ft_pipeline.decide.matrix import cells
from ft_pipeline.decide.notes import exposure_note
from ft_pipeline.decide.promote import Court, Decision, TestedCandidate
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.decide.requirements import ByHand, lacking
from ft_pipeline.decide.sentences import describe_lead, say_all, who_of, wins


def reasons(court: Court, decision: Decision) -> list[str]:
    """Return a line per examined row: what it fails, or, of the released one, what it beats."""
    comparison, failed = court.comparison, decision.failed
    if decision.move and decision.name:
        before = [f"{name}: {'; '.join(say_all(comparison, failed[name]))}" for name in decision.passed_over]
        win = describe_win(court, _row(court, decision.name))
        simpler = f"; it is simpler than {decision.keeps_lead_of}, and is shown to keep most of its lead"
        return [*before, win + (simpler if decision.keeps_lead_of else "")]
    lines = [f"{name}: {'; '.join(say_all(comparison, claims))}" for name, claims in failed.items()]
    if end := exposure_note(court.exposure, comparison.test_rows, court.settings.false_moves):
        lines.append(end)
    return [*(lines or ["the comparison has no row that can be released"]), *champion_notes(court, with_fix=True)]


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


def describe_win(court: Court, row: Row) -> str:
    """Return the rivals that a row beats, and by what, as a sentence."""
    comparison, preferred, beaten = court.comparison, [], []
    rivals = {rival.name: rival for rival in (comparison.bar(row), court.champion_row) if rival is not None}
    for rival in rivals.values():
        claim = comparison.deciding(row, rival)
        if comparison.why_screened_out(rival) is not None:
            beaten.append(_named(court, row, rival))
        elif claim.kind == "opinion":
            preferred.append(f"is preferred in {wins(claim)} by {who_of(claim)}")
        elif comparison.leads(row, rival):
            beaten.append(f"{_named(court, row, rival)} by {describe_lead(claim)}")
    by_metric = [f"beats {', '.join(beaten)} on {comparison.metric().label}"] if beaten else []
    trained_once = row.rights.is_tuned and not comparison.about(row, "recipe")
    notes = ["one training: this speaks for these weights, not for the recipe"] if trained_once else []
    return "; ".join([f"{row.name} {' and '.join([*preferred, *by_metric])}", *notes, *champion_notes(court)])


def champion_notes(court: Court, *, with_fix: bool = False) -> list[str]:
    """Return that the champion is not compared because it learned from test rows. with_fix: it stays; what to do."""
    if court.contaminated is None or court.champion is None:
        return []
    champion, fix = ("champion", f". {court.contaminated.fix}") if with_fix else ("previous champion", "")
    return [f"the {champion} {court.champion.name} is not compared: it {court.contaminated.because}{fix}"]


def _named(court: Court, row: Row, rival: Row) -> str:
    bar = court.comparison.bar(row)
    if bar is not None and rival.name == bar.name:
        return rival.name
    return f"{rival.name}, the champion trained again," if court.contaminated is not None else "the previous champion"


def _row(court: Court, name: str) -> Row:
    row = court.comparison.row(name)
    assert row is not None
    return row
