"""What a decision is made from, read once: a comparison, its candidates, and every look at its test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.decide.exposure_ledger import Entry, Look
from ft_pipeline.decide.looks import Weights, changes, comparisons_before, exposure_of, rows_before
from ft_pipeline.decide.promote import Court
from ft_pipeline.decide.released import Candidate, ChampionRecord
from ft_pipeline.evaluation.comparison.estimates import Estimates, estimate_samples, item_value
from ft_pipeline.evaluation.comparison.leads import bounds, distance_from_ideal, lead_values, unit_of, values_over
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.release.candidates import decision_key_of, find_candidates
from ft_pipeline.release.champion import history
from ft_pipeline.release.looks import ids_of_test_rows, looks_at, write_shown
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

ENOUGH_FRESH = 30
"""Fresh test conversations from which on the lead on them alone is judged."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""By row name, the answers of samples.parquet, sorted by item."""


NONE_REJECTED: Mapping[str, int] = {}


@dataclass(frozen=True)
class Case:
    """A comparison with what is known about it."""

    comparison: Comparison
    candidates: dict[str, Candidate]
    settings: PromotionSettings
    test_share: float
    read: Mapping[str, Any]
    """The settings that a decision reads (looks.decided_by)."""
    ids: Sequence[str]
    """What identifies the test conversations."""
    samples: Samples
    present: Mapping[str, Look]
    """By row name, the looks at the candidates."""
    entries: Sequence[Entry]
    """Of the ledger of looks, oldest first."""
    earlier: Sequence[Entry]
    """Those of other comparisons of which some test conversation is still one."""
    records: Sequence[ChampionRecord]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the candidates, also those that a run does not examine."""
        return [row for row in self.comparison.rows if row.name in self.candidates]

    @property
    def looks(self) -> dict[str, int]:
        """By row name, how many comparisons had been shown when a candidate of its settings first appeared."""
        found = {name: comparisons_before(self.earlier, entry.settings_hash) for name, entry in self.candidates.items()}
        return {name: count for name, count in found.items() if count}

    def court(self, champion: ChampionRecord | None, rejected: Mapping[str, int] = NONE_REJECTED) -> Court:
        """Return what the rules see. champion: the one to beat, which may be one that is only about to be released."""
        court = Court(self.comparison, self.candidates, self.settings, champion, rejected=rejected)
        counted = exposure_ledger.counted(self.entries, self._history_of(champion))
        exposure = replace(
            exposure_of(counted, self.ids, self.present, self._weights(court, counted), self.test_share),
            fresh_leads=self._fresh_leads(court),
            changes=changes(counted, list(self.present.values()), self.ids, self.read),
        )
        return replace(court, exposure=exposure)

    def _history_of(self, champion: ChampionRecord | None) -> list[ChampionRecord]:
        if champion is None:
            return []
        return [*(record for record in self.records if record.sequence < champion.sequence), champion]

    def _weights(self, court: Court, entries: Sequence[Entry]) -> dict[str, Weights]:
        """Return, by candidate, what each test conversation says about its lead over its first rival. Empty if each
        entry saw all conversations or none: then they are not asked."""
        present = set(self.ids)
        if all(present <= entry.ids or not present & entry.ids for entry in entries):
            return {}
        return {
            row.name: found
            for row in self.rows
            for rival in court.rivals(row)[:1]
            if (found := weights_of(self.samples, self.comparison, row.name, rival.name))
        }

    def _fresh_leads(self, court: Court) -> dict[str, dict[str, Score]]:
        """Return Exposure.fresh_leads: of the candidates that appeared after other comparisons."""
        found = {}
        for row in self.rows:
            settings_hash = self.candidates[row.name].settings_hash
            fresh = set(self.ids) - rows_before(self.earlier, settings_hash)
            if not comparisons_before(self.earlier, settings_hash) or len(fresh) < ENOUGH_FRESH:
                continue
            if court.is_tested(row):
                leads = {
                    rival.name: lead_on(self.samples, self.comparison, fresh, row.name, rival.name)
                    for rival in court.rivals(row)
                    if not self.comparison.is_silent(row, rival)
                }
                found[row.name] = {name: lead for name, lead in leads.items() if lead is not None}
        return found


def open_case(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    settings: PromotionSettings,
    *,
    test_share: float,
    read: Mapping[str, Any],
) -> Case:
    """Return what is known about a comparison. What it shows is in the ledger before anybody sees a result.

    Raises UserError if the ledger is damaged.
    """
    ids = ids_of_test_rows(comparison_artifact)
    comparison, (candidates, _) = whole_comparison(comparison_artifact), find_candidates(comparison_artifact, store)
    present = looks_at(comparison, candidates, read, ids)
    write_shown(store, comparison_artifact, present, read, ids)
    records = history(store.root)
    entries = exposure_ledger.read_entries(store.root, _known_entries(store, records))
    return Case(
        comparison,
        candidates,
        settings,
        test_share,
        read,
        ids,
        read_samples(comparison_artifact),
        present,
        entries,
        _on_these_rows(entries, ids, decision_key_of(comparison_artifact)),
        records,
    )


def _known_entries(store: ArtifactStore, records: Sequence[ChampionRecord]) -> int:
    """Return the highest number of an entry that a decision in the store, or a champion, names."""
    decided = (made.summary["exposure"]["entry"] for made in store.all("decision"))
    return max([*decided, exposure_ledger.named_by(records)])


def _on_these_rows(entries: Sequence[Entry], ids: Sequence[str], key: str) -> list[Entry]:
    """Return Case.earlier. key: decision key of this comparison."""
    now = set(ids)
    return [entry for entry in entries if entry.compared != key and entry.ids & now]


def read_samples(comparison_artifact: Artifact) -> Samples:
    """Return the answers of all rows of a comparison."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in pq.read_table(comparison_artifact.path / "samples.parquet").to_pylist():
        found.setdefault(record["name"], []).append(record)
    return {name: sorted(records, key=lambda record: record["item"]) for name, records in found.items()}


def lead_on(samples: Samples, comparison: Comparison, conversations: set[str], row: str, rival: str) -> Score | None:
    """Return the lead of a row over a rival on these conversations alone, with its 95 % interval; None if unknown."""
    some = {name: [record for record in samples[name] if _key(record) in conversations] for name in (row, rival)}
    estimates, metric = _estimates(some, comparison), comparison.metric()
    if estimates is None:
        return None
    values = values_over(rival, row, comparison.primary, metric, estimates)
    return Score(float(values.mean()), *bounds(values, highest=metric.highest))


def weights_of(samples: Samples, comparison: Comparison, row: str, rival: str) -> dict[str, float]:
    """Return by conversation what it says about the lead of a row over a rival: the square of its difference. Where
    both are the same, it says nothing. Empty if the metric that decides was not measured."""
    both = {name: samples[name] for name in (row, rival)}
    estimates, metric = _estimates(both, comparison), comparison.metric()
    if estimates is None:
        return {}
    ours, theirs = (distance_from_ideal(estimates[name][comparison.primary], metric.ideal) for name in (row, rival))
    values = lead_values(ours, theirs, lower_is_better=metric.lower_is_better)  # as they are: without room for others
    keys: dict[str, set[str]] = {}
    for record in both[row]:
        if item_value(comparison.primary, record) is not None:
            keys.setdefault(unit_of(record), set()).add(_key(record))
    found: dict[str, float] = {}
    for unit, value in zip(sorted(keys), values, strict=False):  # rates have two more values, which are invented
        for key in keys[unit]:  # the conversations of a cluster share what it says
            found[key] = found.get(key, 0.0) + float(value) ** 2 / len(keys[unit])
    return found


def _key(record: Mapping[str, Any]) -> str:
    """Return what identifies the conversation of an answer."""
    key: str = record.get("question_key", record["group"])
    return key


def _estimates(samples: Samples, comparison: Comparison) -> Estimates | None:
    """Return the estimates of some rows by the metric that decides; None if it was not measured."""
    name = comparison.primary
    if not all(samples.values()):
        return None
    estimates = estimate_samples(samples, {name: comparison.metric()})
    return estimates if all(name in estimates[model] for model in samples) else None
