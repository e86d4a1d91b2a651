"""Decide about the champion on a comparison, and record the tests that were made on the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.exposure import USED_UP, Exposure, needed_lead
from ft_pipeline.decide.matrix import matrix
from ft_pipeline.decide.promote import Court, TestedCandidate, decide, decide_one
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.decide.requirements import Cell
from ft_pipeline.decide.ruling import Ruling, ruling_about, ruling_of
from ft_pipeline.decide.verdict import Summary, Verdict
from ft_pipeline.decide.words import standard_errors
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.release.candidates import decision_key_of, find_candidates, released_row
from ft_pipeline.release.champion import history, manually_rejected
from ft_pipeline.release.fresh_leads import ENOUGH_FRESH, fresh_rows, lead_on
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


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
    """Number of the last entry of the ledger, with those of this decision; 0 if there is none."""
    looks: dict[str, int]
    """By row name, how many decisions on these rows had been made before a candidate of its settings first appeared."""


def ids_of_test_rows(comparison_artifact: Artifact) -> list[str]:
    """Return what identifies the test conversations of a comparison, sorted: their questions, so that an edit of white
    space makes no fresh rows; their ids in scores of older versions."""
    table = pq.read_table(comparison_artifact.path / "samples.parquet")
    column = table.column("question_key" if "question_key" in table.column_names else "group")
    return sorted(pc.unique(column).to_pylist())


def decide_and_record(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    *,
    test_share: float,
    row: Row | None = None,
) -> RecordedDecision:
    """Decide, and write the new tests to the ledger before anybody sees a result.

    champion: the one to beat. row: decide about this row alone (`ft promote`). The same comparison is decided in the
    same way again, and counted once. Raises UserError if the ledger is damaged.
    """
    while True:
        recorded = _decide_once(store, comparison_artifact, settings, champion, test_share, row)
        if recorded is not None:
            return recorded


def _decide_once(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    test_share: float,
    row: Row | None,
) -> RecordedDecision | None:
    """Decide and record as decide_and_record; None if another process wrote to the ledger meanwhile."""
    comparison = read_comparison(comparison_artifact)
    candidates, _ = find_candidates(comparison_artifact, store)
    records, next_number = history(store.root), exposure_ledger.ledger(store.root).next_number()
    standing = [record for record in records if champion is not None and record.sequence <= champion.sequence]
    key, ids = decision_key_of(comparison_artifact), ids_of_test_rows(comparison_artifact)
    own, known = (key, _number(champion)), _known_entries(store)
    exposure = exposure_ledger.read_exposure(store.root, ids, standing, own=own, known=known, test_share=test_share)
    others = [entry for entry in exposure_ledger.read_entries(store.root) if not exposure_ledger.is_own(entry, *own)]
    earlier = exposure_ledger.on_these_rows(store.root, others, ids)
    rejected = manually_rejected(records) if row is None else {}
    court = Court(comparison, candidates, settings, champion, exposure, rejected, row)
    exposure = replace(exposure, fresh_leads=_fresh_leads(store, comparison_artifact, court, earlier, ids))
    court = replace(court, exposure=exposure)
    decision = decide(court) if row is None else decide_one(court, row)
    ruling = ruling_of(court, decision) if row is None else ruling_about(court, decision, row)
    new = [test for test in decision.tests if test.is_new]
    if new:
        entry = exposure_ledger.NewEntry(
            comparison=comparison_artifact.fingerprint,
            decision_key=key,
            candidates=[_described(candidates[test.name], test, comparison) for test in new],
            contenders=sorted({candidate.settings_hash for candidate in candidates.values()}),
            champion=champion.fingerprint if champion else None,
            standing=_number(champion),
            metric=comparison.primary_metric,
            rules=comparison.rules,
            test_ids=ids,
            e_before=exposure.count,
            screen={
                claim.row: errors
                for claim in comparison.of_kind("screen")
                if (errors := standard_errors(claim)) is not None
            },
        )
        if exposure_ledger.write_entry(store.root, entry, next_number) is None:
            return None
    _write_results(store, ruling, own)
    fingerprint = champion.fingerprint if champion else ""
    standing_row = released_row(comparison, candidates, fingerprint) if champion else None
    said = None
    if row is None:
        summary = Summary(comparison, decision, comparison.row(standing_row), champion is not None, ruling.reasons[-1])
        said = summary.verdict()
    entries = exposure_ledger.ledger(store.root).next_number() - 1
    looks = _looks(candidates, earlier)
    cells = matrix(court)
    return RecordedDecision(ruling, said, cells, standing_row, comparison, candidates, exposure, entries, looks)


def _known_entries(store: ArtifactStore) -> int:
    """Return the highest number of an entry that a decision in the store names."""
    return max((made.summary["exposure"]["entry"] for made in store.all("decision")), default=0)


def _looks(candidates: Mapping[str, Candidate], earlier: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return, by row name, the decisions that had been made when a candidate of its settings first appeared."""
    looks = {
        name: exposure_ledger.looks_before(earlier, candidate.settings_hash) for name, candidate in candidates.items()
    }
    return {name: count for name, count in looks.items() if count}


def _fresh_leads(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    court: Court,
    earlier: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
) -> dict[str, dict[str, Score]]:
    """Return Exposure.fresh_leads: of the candidates that appeared after other decisions."""
    rows, found = exposure_ledger.rows_of(store.root, earlier), {}
    for row in court.tested:
        settings_hash = court.candidates[row.name].settings_hash
        fresh = fresh_rows(ids, earlier, rows, settings_hash)
        if exposure_ledger.looks_before(earlier, settings_hash) and len(fresh) >= ENOUGH_FRESH:
            leads = {
                rival.name: lead_on(comparison_artifact, court.comparison, fresh, row.name, rival.name)
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
) -> dict[str, Any]:
    """Decide, record the tests, and return decision.json.

    standing: the number of the record of the champion to beat; None without one. Keys: verdict, champion_row (the row
    of that champion), decision, exposure (of the test rows), looks and matrix (matrix.py).
    """
    champion = {record.sequence: record for record in history(store.root)}.get(standing or 0)
    recorded = decide_and_record(store, comparison_artifact, settings, champion, test_share=test_share)
    assert recorded.verdict is not None
    own = decision_key_of(comparison_artifact), standing
    tests = [
        test
        for entry in exposure_ledger.read_entries(store.root)
        if exposure_ledger.is_own(entry, *own)
        for test in entry["candidates"]
    ]
    level = min((test["level"] for test in tests), default=recorded.exposure.level(settings.false_moves, 1))
    return {
        "verdict": recorded.verdict.to_json(),
        "champion_row": recorded.champion_row,
        "decision": recorded.decision.to_json(),
        "exposure": {
            "before": recorded.exposure.count,
            "tests": len(tests),
            "used_up_at": USED_UP,
            "level": level,
            "needed_lead": needed_lead(level),
            "entry": recorded.entry,
        },
        "looks": recorded.looks,
        "matrix": {name: [cell.model_dump() for cell in cells] for name, cells in recorded.matrix.items()},
    }


def _write_results(store: ArtifactStore, ruling: Ruling, own: tuple[str, int | None]) -> None:
    """Write the results of every entry of a decision. own: its decision key and the number of its champion's record."""
    results = {test.name: {"p": test.p, "level": test.level, "rivals": test.rivals} for test in ruling.tests}
    moved = ruling.name if ruling.move else None
    for entry in exposure_ledger.read_entries(store.root):
        if exposure_ledger.is_own(entry, *own):
            exposure_ledger.write_result(store.root, entry["sequence"], results, moved)


def _number(champion: ChampionRecord | None) -> int | None:
    return champion.sequence if champion else None


def _described(candidate: Candidate, test: TestedCandidate, comparison: Comparison) -> dict[str, Any]:
    row = comparison.row(candidate.name)
    return {
        "name": candidate.name,
        "fingerprint": candidate.fingerprint,
        "kind": candidate.kind,
        "experiment": candidate.experiment,
        "settings_hash": candidate.settings_hash,
        "base_model": row.base_model if row else None,
        "rivals": test.rivals,
        "key": test.key,
        "level": test.level,
    }
