"""Decide about the champion on a comparison, by what the ledger says about the looks at the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure import USED_UP, Exposure, needed_lead
from ft_pipeline.decide.exposure_ledger import Entry
from ft_pipeline.decide.looks import Weights, changes, comparisons_before, exposure_of, rows_before
from ft_pipeline.decide.matrix import matrix
from ft_pipeline.decide.promote import Court, TestedCandidate, decide, decide_one
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.decide.requirements import Cell
from ft_pipeline.decide.ruling import Ruling, ruling_about, ruling_of
from ft_pipeline.decide.verdict import Summary, Verdict
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.release.candidates import decision_key_of, find_candidates, released_row
from ft_pipeline.release.champion import history, manually_rejected
from ft_pipeline.release.fresh_leads import ENOUGH_FRESH, Samples, lead_on, read_samples, weights_of
from ft_pipeline.release.looks import ids_of_test_rows, write_looks_at_comparison
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class RecordedDecision:
    """A decision with what it was made from."""

    decision: Ruling
    verdict: Verdict | None
    """None if it is about one row."""
    matrix: Mapping[str, Sequence[Cell]]
    """What each examined row meets of each requirement."""
    champion_row: str | None
    """The row of the champion to beat."""
    comparison: Comparison
    candidates: dict[str, Candidate]
    exposure: Exposure
    entry: int
    """Number of the last entry of the ledger; 0 if there is none."""
    looks: dict[str, int]
    """By row name, how many comparisons on these rows had been shown before a model of its settings first appeared."""


def decide_and_record(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    *,
    test_share: float,
    read: Mapping[str, Any] = NOTHING,
    row: Row | None = None,
) -> RecordedDecision:
    """Decide. What the comparison shows is in the ledger before anybody sees a result.

    champion: the one to beat. read: the settings that a decision reads (looks.decided_by). row: decide about this row
    alone (`ft promote`). The same scores, settings and ledger are decided in the same way, in any order of runs. Raises
    UserError if the ledger is damaged.
    """
    ids = ids_of_test_rows(comparison_artifact)
    present = write_looks_at_comparison(store, comparison_artifact, read, ids)
    comparison, records = read_comparison(comparison_artifact), history(store.root)
    candidates, _ = find_candidates(comparison_artifact, store)
    entries = exposure_ledger.read_entries(store.root, _known_entries(store, records))
    standing = [record for record in records if champion is not None and record.sequence <= champion.sequence]
    rejected = manually_rejected(records) if row is None else {}
    court = Court(comparison, candidates, settings, champion, Exposure(), rejected, row)
    samples, counted = read_samples(comparison_artifact), exposure_ledger.counted(entries, standing)
    earlier = _on_these_rows(entries, ids, decision_key_of(comparison_artifact))
    exposure = replace(
        exposure_of(counted, ids, present, _weights(samples, court), test_share),
        fresh_leads=_fresh_leads(samples, court, earlier, ids),
        changes=changes(counted, list(present.values()), ids, read),
    )
    court = replace(court, exposure=exposure)
    decision = decide(court) if row is None else decide_one(court, row)
    ruling = ruling_of(court, decision) if row is None else ruling_about(court, decision, row)
    fingerprint = champion.fingerprint if champion else ""
    standing_row = released_row(comparison, candidates, fingerprint) if champion else None
    said = None
    if row is None:
        found = comparison.row(standing_row)
        summary = Summary(comparison, decision, found, champion is not None, ruling.reasons[-1], exposure.changes)
        said = summary.verdict()
    looks = _looks(candidates, earlier)
    return RecordedDecision(
        ruling, said, matrix(court), standing_row, comparison, candidates, exposure, len(entries), looks
    )


def _weights(samples: Samples, court: Court) -> dict[str, Weights]:
    """Return, by candidate, what each test conversation says about its lead over its first rival."""
    return {
        row.name: found
        for row in court.examined
        for rival in court.rivals(row)[:1]
        if (found := weights_of(samples, court.comparison, row.name, rival.name))
    }


def _known_entries(store: ArtifactStore, records: Sequence[ChampionRecord]) -> int:
    """Return the highest number of an entry that a decision in the store, or a champion, names."""
    decided = (made.summary["exposure"]["entry"] for made in store.all("decision"))
    return max([*decided, exposure_ledger.named_by(records)])


def _on_these_rows(entries: Sequence[Entry], ids: Sequence[str], key: str) -> list[Entry]:
    """Return the entries of other comparisons of which some test conversation is still one. key: decision key of this
    one."""
    now = set(ids)
    return [entry for entry in entries if entry.compared != key and entry.ids & now]


def _looks(candidates: Mapping[str, Candidate], earlier: Sequence[Entry]) -> dict[str, int]:
    """Return, by row name, the comparisons that had been shown when a candidate of its settings first appeared."""
    looks = {name: comparisons_before(earlier, candidate.settings_hash) for name, candidate in candidates.items()}
    return {name: count for name, count in looks.items() if count}


def _fresh_leads(
    samples: Samples, court: Court, earlier: Sequence[Entry], ids: Sequence[str]
) -> dict[str, dict[str, Score]]:
    """Return Exposure.fresh_leads: of the candidates that appeared after other comparisons."""
    found = {}
    for row in court.tested:
        settings_hash = court.candidates[row.name].settings_hash
        fresh = set(ids) - rows_before(earlier, settings_hash)
        if comparisons_before(earlier, settings_hash) and len(fresh) >= ENOUGH_FRESH:
            leads = {
                rival.name: lead_on(samples, court.comparison, fresh, row.name, rival.name)
                for rival in court.rivals(row)
                if not court.comparison.is_silent(row, rival)
            }
            found[row.name] = {name: lead for name, lead in leads.items() if lead is not None}
    return found


def decision_document(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    standing: int | None,
    *,
    test_share: float,
    read: Mapping[str, Any] = NOTHING,
) -> dict[str, Any]:
    """Decide, and return decision.json.

    standing: the number of the record of the champion to beat; None without one. Keys: verdict, champion_row (the row
    of that champion), decision, exposure (of the test rows), looks and matrix (matrix.py).
    """
    champion = {record.sequence: record for record in history(store.root)}.get(standing or 0)
    recorded = decide_and_record(store, comparison_artifact, settings, champion, test_share=test_share, read=read)
    assert recorded.verdict is not None
    return {
        "verdict": recorded.verdict.to_json(),
        "champion_row": recorded.champion_row,
        "decision": recorded.decision.to_json(),
        "exposure": told_exposure(recorded.exposure, recorded.decision.tests, settings) | {"entry": recorded.entry},
        "looks": recorded.looks,
        "matrix": {name: [cell.model_dump() for cell in cells] for name, cells in recorded.matrix.items()},
    }


def told_exposure(exposure: Exposure, tests: Sequence[TestedCandidate], settings: PromotionSettings) -> dict[str, Any]:
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
