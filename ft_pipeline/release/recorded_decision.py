"""Decide about the champion on a comparison, and record the tests that were made on the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.exposure import USED_UP, Exposure, needed_lead
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.records import Comparison, read_comparison
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.release.candidates import decision_key_of, find_candidates, released_row
from ft_pipeline.release.champion import history, manually_rejected
from ft_pipeline.release.decision import Decision, decide, decide_one
from ft_pipeline.release.fresh_leads import ENOUGH_FRESH, fresh_rows, lead_on
from ft_pipeline.release.promotion_rules import PromotionRules
from ft_pipeline.release.verdict import verdict
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


@dataclass(frozen=True)
class RecordedDecision:
    """A decision with what it was made from."""

    decision: Decision
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
    row: ComparisonRow | None = None,
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
    row: ComparisonRow | None,
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
    rules = PromotionRules(comparison, candidates, settings, champion, exposure, row)
    exposure = replace(exposure, fresh_leads=_fresh_leads(store, comparison_artifact, rules, earlier, ids))
    if row is not None:
        decision = decide_one(comparison, candidates, settings, champion, row, exposure)
    else:
        decision = decide(comparison, candidates, settings, champion, manually_rejected(records), exposure)
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
            screen={screen.row: screen.errors for screen in comparison.screens if screen.errors is not None},
        )
        if exposure_ledger.write_entry(store.root, entry, next_number) is None:
            return None
    _write_results(store, decision, own)
    entries = exposure_ledger.ledger(store.root).next_number() - 1
    looks = _looks(candidates, earlier)
    return RecordedDecision(decision, comparison, candidates, exposure, entries, looks)


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
    rules: PromotionRules,
    earlier: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
) -> dict[str, dict[str, Score]]:
    """Return Exposure.fresh_leads: of the candidates that appeared after other decisions."""
    rows, found = exposure_ledger.rows_of(store.root, earlier), {}
    for row in rules.tested_rows:
        settings_hash = rules.candidates[row.name].settings_hash
        fresh = fresh_rows(ids, earlier, rows, settings_hash)
        if exposure_ledger.looks_before(earlier, settings_hash) and len(fresh) >= ENOUGH_FRESH:
            leads = {
                rival.name: lead_on(comparison_artifact, rules.comparison, fresh, row.name, rival.name)
                for rival in rules.rivals(row)
                if rules.comparison.why_no_metric(row, rival) is None
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
    of that champion), decision, exposure (of the test rows) and looks.
    """
    champion = {record.sequence: record for record in history(store.root)}.get(standing or 0)
    recorded = decide_and_record(store, comparison_artifact, settings, champion, test_share=test_share)
    fingerprint = champion.fingerprint if champion else ""
    champion_row = released_row(recorded.comparison, recorded.candidates, fingerprint) if champion else None
    own = decision_key_of(comparison_artifact), standing
    tests = [
        test
        for entry in exposure_ledger.read_entries(store.root)
        if exposure_ledger.is_own(entry, *own)
        for test in entry["candidates"]
    ]
    level = min((test["level"] for test in tests), default=recorded.exposure.level(settings.false_moves, 1))
    return {
        "verdict": verdict(recorded.comparison, recorded.decision, champion_row, champion is not None).to_json(),
        "champion_row": champion_row,
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
    }


def _write_results(store: ArtifactStore, decision: Decision, own: tuple[str, int | None]) -> None:
    """Write the results of every entry of a decision. own: its decision key and the number of its champion's record."""
    results = {test.name: {"p": test.p, "level": test.level, "rivals": test.rivals} for test in decision.tests}
    moved = decision.name if decision.move else None
    for entry in exposure_ledger.read_entries(store.root):
        if exposure_ledger.is_own(entry, *own):
            exposure_ledger.write_result(store.root, entry["sequence"], results, moved)


def _number(champion: ChampionRecord | None) -> int | None:
    return champion.sequence if champion else None


def _described(candidate: Candidate, test: Any, comparison: Comparison) -> dict[str, Any]:
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
