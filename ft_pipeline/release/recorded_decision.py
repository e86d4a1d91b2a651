"""Decide about the champion on a comparison, by what the ledger says about the looks at the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.decide.conclusion import Verdict
from ft_pipeline.decide.exposure import USED_UP, Exposure, needed_lead
from ft_pipeline.decide.exposure_ledger import EVIDENCE_KEY
from ft_pipeline.decide.matrix import matrix
from ft_pipeline.decide.promote import Court, TestedCandidate, decide
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.decide.ruling import Ruling, ruling_about, ruling_of
from ft_pipeline.decide.verdict import Summary
from ft_pipeline.release.candidates import released_row
from ft_pipeline.release.case import Case, open_case
from ft_pipeline.release.champion import history, manually_rejected, next_record
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


@dataclass(frozen=True)
class RecordedDecision:
    """A decision with what it was made from."""

    case: Case
    court: Court
    decision: Ruling
    verdict: Verdict
    champion_row: str | None
    """The row of the champion to beat."""

    @property
    def entry(self) -> int:
        """Number of the last entry of the ledger; 0 if there is none."""
        return len(self.case.entries)


def decide_and_record(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    *,
    test_share: float,
    read: Mapping[str, Any],
) -> RecordedDecision:
    """Decide. What the comparison shows is in the ledger before anybody sees a result.

    champion: the one to beat. read: the settings that a decision reads (looks.decided_by). The same scores, settings
    and ledger are decided in the same way, in any order of runs. Raises UserError if the ledger is damaged.
    """
    case = open_case(store, comparison_artifact, settings, test_share=test_share, read=read)
    court = case.court(champion, manually_rejected(case.records))
    decision = decide(court)
    ruling = ruling_of(court, decision)
    standing = released_row(case.comparison, case.candidates, champion.fingerprint) if champion else None
    found, changed = case.comparison.row(standing), court.exposure.changes
    summary = Summary(case.comparison, decision, found, champion is not None, ruling.reasons[-1], changed)
    return RecordedDecision(case, court, ruling, summary.verdict(), standing)


def decision_document(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    standing: int | None,
    *,
    test_share: float,
    read: Mapping[str, Any],
) -> dict[str, Any]:
    """Decide, and return decision.json.

    standing: the number of the record of the champion to beat; None without one. Keys: verdict, champion_row (the row
    of that champion), decision, exposure (of the test rows), looks, matrix (matrix.py) and by_hand (by_hand_after).
    """
    champion = {record.sequence: record for record in history(store.root)}.get(standing or 0)
    recorded = decide_and_record(store, comparison_artifact, settings, champion, test_share=test_share, read=read)
    court = recorded.court
    return {
        "verdict": recorded.verdict.model_dump(),
        "champion_row": recorded.champion_row,
        "decision": recorded.decision.model_dump(),
        "exposure": exposure_facts(court.exposure, recorded.decision.tests, settings) | {"entry": recorded.entry},
        "looks": recorded.case.looks,
        "matrix": {name: [cell.model_dump() for cell in cells] for name, cells in matrix(court).items()},
        "by_hand": by_hand_after(recorded),
    }


def by_hand_after(recorded: RecordedDecision) -> dict[str, dict[str, Any]]:
    """Return what `ft promote` reads: by fingerprint of the champion ("": none), then by row, a ByHand. The champion is
    the one to beat, and the one that this decision releases."""
    found = {}
    for champion, court in _courts(recorded):
        fingerprint = champion.fingerprint if champion else ""
        found[fingerprint] = {row.name: ruling_about(court, row).model_dump() for row in recorded.case.rows}
    return found


def _courts(recorded: RecordedDecision) -> list[tuple[ChampionRecord | None, Court]]:
    """Return the champion to beat, and the one that a decision releases, each with what the rules see."""
    case, champion = recorded.case, recorded.court.champion
    courts = [(champion, recorded.court)]
    if (move := recorded.decision.promotion(case.candidates)) is not None:
        evidence = {**move.evidence, EVIDENCE_KEY: recorded.entry}
        released = next_record(move.model_copy(update={"evidence": evidence}), champion)
        courts.append((released, case.court(released)))
    return courts


def exposure_facts(exposure: Exposure, tests: Sequence[TestedCandidate], settings: PromotionSettings) -> dict[str, Any]:
    """Return what decision.json says about the looks at the test rows."""
    first = exposure.level(settings.false_moves, "", is_tuned=True)
    level = min((test.level for test in tests), default=first)
    return {
        "before": exposure.count,
        "tests": len(tests),
        "designs": exposure.designs,
        "used_up_at": USED_UP,
        "level": level,
        "needed_lead": needed_lead(level),
    }
