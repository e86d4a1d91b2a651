"""Decide whether the champion moves, by rules on the measured comparison. Ties and uncertainty never move it.

A tuned model is released if its recorded checks passed, it beats the best baseline and the current champion by more
than noise, and it is shown not to forget (evaluation/comparison/forgetting.py). If no tuned model is released, the best
prompt variant is, provided it beats the base model, every other variant and the current champion by more than noise.

"By more than noise": the p-value of the lead is at most false_moves / (1 + m), where m candidates are tested. A single
candidate is tested at the level of a 95 % interval; of ten equal ones, the best would beat it by luck in 15 % of the
cases. Not tested are candidates that cannot be released anyway.

A champion that learned from rows which are test rows now is not compared (comparison/contaminated_models.py). Once its
experiment is trained again, that model stands in its place; until then, the champion stays. If the experiment is gone,
a candidate must beat the baselines alone. The reason in the record says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft_pipeline.evaluation.comparison.lead_records import PairedDifference
from ft_pipeline.evaluation.comparison.records import Comparison, ContaminatedModel
from ft_pipeline.evaluation.comparison.row_records import ComparisonRow
from ft_pipeline.evaluation.model_kinds import BASELINES, TUNED, ModelKind
from ft_pipeline.release.champion import Candidate, ChampionRecord, Promotion
from ft_pipeline.settings.project import PromotionSettings


@dataclass(frozen=True)
class Decision:
    """Whether the champion moves, and why."""

    move: bool
    name: str | None
    """The row to release; None if `decide` releases none."""
    reasons: list[str]
    """From `decide`: a line per examined candidate, with what it beats or the requirements that it fails. From
    `decide_one`: what the row beats, or a line per failed requirement."""
    evidence: dict[str, Any]
    """The numbers behind the decision: metric, score, paired differences; empty if `decide` releases none."""


def decide(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    rejected: Mapping[str, int] | None = None,
) -> Decision:
    """Examine the tuned rows, best first, then the best prompt variant. The first that meets all requirements becomes
    the champion.

    candidates: by row name; a row without a candidate cannot be released. rejected: see champion.manually_rejected. A
    model that a person rejected is not promoted.
    """
    rules = _PromotionRules(comparison, candidates, settings, champion)
    reasons: list[str] = []
    for row in rules.examined_rows():
        failed = rules.failed_requirements(row)
        record_number = (rejected or {}).get(candidates[row.name].fingerprint)
        if not failed and record_number is not None:
            failed = [f"was rejected manually (record {record_number}): run `ft promote {row.name}` to release it"]
        if not failed:
            return Decision(True, row.name, [*reasons, rules.describe_win(row)], rules.evidence(row))
        reasons.append(f"{row.name}: {'; '.join(failed)}")
    reasons = reasons or ["the comparison has no row that can be released"]
    return Decision(False, None, [*reasons, *rules.champion_notes(with_fix=True)], {})


def promotion_of(
    decision: Decision, candidates: Mapping[str, Candidate], comparison_fingerprint: str | None = None
) -> Promotion | None:
    """Return the promotion that champion.promote expects; None if the decision releases nothing."""
    if not decision.move or decision.name is None:
        return None
    evidence = {"comparison": comparison_fingerprint, **decision.evidence}
    return Promotion(candidates[decision.name], decision.reasons[-1], evidence)


def decide_one(
    comparison: Comparison,
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    row: ComparisonRow,
) -> Decision:
    """Apply the same rules to one row, regardless of better candidates and of manual rejections."""
    rules = _PromotionRules(comparison, candidates, settings, champion)
    failed = rules.failed_requirements(row)
    return Decision(not failed, row.name, failed or [rules.describe_win(row)], rules.evidence(row))


def check_results(training_data_summary: Mapping[str, Any], merged_model_summary: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether each check of a tuned model passed, from the summaries in its manifests. A missing check counts as
    failed."""
    audit = training_data_summary.get("audit", {}).get("checks", {})
    return {
        "token_audit": bool(audit) and all(check.get("passed") is True for check in audit.values()),
        "merge": merged_model_summary.get("passed") is True,
    }


class _PromotionRules:
    """The comparison, with a method for each question of the rules."""

    def __init__(
        self,
        comparison: Comparison,
        candidates: Mapping[str, Candidate],
        settings: PromotionSettings,
        champion: ChampionRecord | None,
    ) -> None:
        self.comparison = comparison
        self.candidates = candidates
        self.settings = settings
        self.champion = champion
        self.metric = comparison.primary_metric

    def releasable_rows(self, kind: ModelKind) -> list[ComparisonRow]:
        """Return the rows of a kind that can be released and have a score, best first."""
        ranked = self.comparison.ranked(self.metric)
        return [row for row in ranked if row.kind == kind and row.name in self.candidates]

    def tuned_rows(self) -> list[ComparisonRow]:
        """Return the row of each experiment that a run may release, best first.

        It is the merged model, or the adapter if it cannot be merged (prompt_tuning).
        """
        with_merged = {row.experiment for row in self.comparison.rows if row.kind == "merged"}
        adapters = [row for row in self.releasable_rows("adapter") if row.experiment not in with_merged]
        return self.comparison.ranked(self.metric, [*self.releasable_rows("merged"), *adapters])

    def examined_rows(self) -> list[ComparisonRow]:
        """Return the rows that a run may release, in the order in which they are examined."""
        return [*self.tuned_rows(), *self.releasable_rows("prompt")[:1]]

    @cached_property
    def level(self) -> float:
        """The largest p-value with which a lead counts."""
        tested = [row for row in self.examined_rows() if not self._is_champion(row) and not self._faults(row)]
        return self.settings.false_moves / (1 + max(len(tested), 1))

    def failed_requirements(self, row: ComparisonRow) -> list[str]:
        """Return the requirements that the row does not meet; empty if it can be released."""
        if self._is_champion(row):
            return ["is already the champion"]
        missing_leads = [self._missing_lead(row, rival) for rival in self._rivals(row)]
        return [
            *self._faults(row),
            *filter(None, missing_leads),
            *self._missing_lead_over_champion(row),
            *self._missing_lead_of_recipe(row),
        ]

    def _is_champion(self, row: ComparisonRow) -> bool:
        return self.champion is not None and self.candidates[row.name].fingerprint == self.champion.fingerprint

    def _faults(self, row: ComparisonRow) -> list[str]:
        """Return why a row cannot be released, whatever it leads."""
        count, least = self.comparison.test_rows, self.settings.min_test_rows
        too_few = [f"{count} test conversations are too few, {least} are needed"] if count < least else []
        gates = self.candidates[row.name].gates
        return [
            *too_few,
            *(f"the check {name} failed" for name, passed in gates.items() if not passed),
            *self._forgetting(row),
            *(rail.describe() for rail in row.rails if rail.prevents_release),
        ]

    def describe_win(self, row: ComparisonRow) -> str:
        """Return the rivals that the row beats, as a sentence."""
        rivals = self._rivals(row)
        leads = [(rival.name, self._lead(row, rival)) for rival in rivals]
        names = {rival.name for rival in rivals}
        champions = [champion for champion in self._champion_rows() if champion.name not in names]
        again = self._contaminated_champion() is not None
        leads += [
            (f"{champion.name}, the champion trained again," if again else "the previous champion", lead)
            for champion in champions
            if (lead := self._lead(row, champion))
        ]
        beaten = [f"{name} by {lead.describe()}" for name, lead in leads if lead]
        win = f"{row.name} beats {', '.join(beaten)} on {self.metric}"
        return "; ".join([win, *self._training_notes(row), *self.champion_notes()])

    def _training_notes(self, row: ComparisonRow) -> list[str]:
        """Return whether the lead is that of a recipe or of the weights of one training; nothing for a prompt."""
        if row.kind not in TUNED:
            return []
        trainings = max((lead.trainings for lead in self.comparison.recipe_leads_of(row)), default=1)
        return [] if trainings > 1 else ["one training: this speaks for these weights, not for the recipe"]

    def champion_notes(self, *, with_fix: bool = False) -> list[str]:
        """Return a sentence if the champion is not compared because it learned from test rows.

        with_fix: it stays, so the sentence says what to do.
        """
        contaminated = self._contaminated_champion()
        if contaminated is None or self.champion is None:
            return []
        champion, fix = ("champion", f". {contaminated.fix}") if with_fix else ("previous champion", "")
        return [f"the {champion} {self.champion.name} is not compared: it {contaminated.because}{fix}"]

    def evidence(self, row: ComparisonRow) -> dict[str, Any]:
        """Return the numbers behind a decision about the row, as plain JSON."""
        leads = [self._lead(row, rival) for rival in [*self._rivals(row), *self._champion_rows()]]
        score = row.scores.get(self.metric)
        return {
            "metric": self.metric,
            "score": score.to_json() if score else None,
            "pairs": [lead.to_json() for lead in leads if lead],
            "general": row.general,
            "level": self.level,
            "forgetting": row.forgetting.to_json() if row.forgetting else None,
        }

    def _rivals(self, row: ComparisonRow) -> list[ComparisonRow]:
        """Return the rows that a row must beat: the best baseline; for a prompt variant, every other baseline."""
        if row.kind == "prompt":
            return [rival for rival in self.comparison.rows if rival.kind in BASELINES and rival.name != row.name]
        best = self.comparison.best_baseline(of=row)
        return [best] if best else []

    def _missing_lead_over_champion(self, row: ComparisonRow) -> list[str]:
        """Return a reason if the row does not beat the champion, or if that was not measured."""
        if self.champion is None:
            return []
        champions = self._champion_rows()
        if self._contaminated_champion() is not None:
            experiment = self.champion.experiment
            if self._is_left_out(experiment):
                return [f"the champion's experiment {experiment} must be trained and scored again first"]
            if row.experiment == experiment or not champions:
                return []
        if not champions:
            return [f"the champion {self.champion.name} has no score in this comparison: run `ft run`"]
        missing = self._missing_lead(row, champions[0])
        return [f"champion: {missing}"] if missing else []

    def _missing_lead_of_recipe(self, row: ComparisonRow) -> list[str]:
        """Return a reason for each rival that the recipe is not shown to beat over its seeds. Trained once, its weights
        alone decide."""
        return [
            f"its recipe is not shown to beat {lead.rival}: it leads by {lead.describe()}"
            for lead in self.comparison.recipe_leads_of(row)
            if not lead.is_shown
        ]

    def _champion_rows(self) -> list[ComparisonRow]:
        """Return the champion's rows: those of kind `champion`, or else those of the same artifact.

        If the champion is contaminated: the row of its experiment, trained again, if possible in the same form.
        """
        if self.champion is None:
            return []
        fingerprint, rows = self.champion.fingerprint, self.comparison.rows
        if self._contaminated_champion() is not None:
            again = [row for row in rows if row.experiment == self.champion.experiment and row.kind in TUNED]
            kind = self.champion.kind
            return sorted(again, key=lambda row: row.kind != kind)[:1]
        champion_rows = [row for row in rows if row.kind == "champion" and self._compares_champion()]
        names = [name for name, candidate in self.candidates.items() if candidate.fingerprint == fingerprint]
        return champion_rows or [row for row in rows if row.name in names]

    def _compares_champion(self) -> bool:
        """Return whether the comparison was made with this champion. A person may have moved it since."""
        return self.champion is not None and self.comparison.champion_fingerprint in (None, self.champion.fingerprint)

    def _contaminated_champion(self) -> ContaminatedModel | None:
        return self.comparison.contaminated_champion if self._compares_champion() else None

    def _is_left_out(self, experiment: str | None) -> bool:
        """Return whether an experiment of the project has no row in the comparison, because it is contaminated or was
        scored in another evaluation."""
        contaminated = {entry.model for entry in self.comparison.contaminated_experiments}
        return experiment in contaminated | {row.experiment for row in self.comparison.left_out}

    def _missing_lead(self, row: ComparisonRow, rival: ComparisonRow) -> str | None:
        """Return why the row does not beat the rival by more than noise; None if it does."""
        metric, lead = self.metric, self._lead(row, rival)
        if lead is None and self._lead(rival, row) is None:
            return f"was not compared with {rival.name} on {metric}"
        if lead is None or lead.difference <= 0:
            return f"does not beat {rival.name} on {metric}"
        if not lead.is_clear:
            return f"leads {rival.name} on {metric} by {lead.describe()}, but the interval includes zero"
        p = self.comparison.p_value(row, rival)
        if p is not None and p > self.level:
            return (
                f"leads {rival.name} on {metric} by {lead.describe()}, but with several candidates that may be luck: "
                f"its p-value is {p:.2g}, and at most {self.level:.2g} is wanted"
            )
        for check in self.comparison.failed_answer_checks(row, rival):
            label = self.comparison.metric(check.metric).label
            return (
                f"leads {rival.name} on {metric} by {lead.describe()}, but its answers are not shown to be as good: "
                f"{label} {check.describe()}"
            )
        return None

    def _lead(self, row: ComparisonRow, rival: ComparisonRow) -> PairedDifference | None:
        return self.comparison.difference(row, rival, self.metric)

    def _forgetting(self, row: ComparisonRow) -> list[str]:
        """Return a reason unless it is shown that a tuned row does not forget."""
        if row.kind == "prompt":
            return []
        if row.forgetting is None:
            return ["its general accuracy was not compared with that of its base model"]
        return [] if row.forgetting.verdict == "kept" else [row.forgetting.describe().rstrip(".")]
