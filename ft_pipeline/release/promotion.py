"""Whether the champion moves: rules over the measured comparison. Ties and uncertainty never move it.

A tuned model is released if its recorded checks passed, it beats the best baseline and the current champion by more
than noise, and it forgets less than the margin. If no tuned model is released, the best prompt variant is, provided it
beats the base model, every other variant and the current champion by more than noise.

"By more than noise": the comparison has a paired difference in which the candidate leads, with a 95 % interval above
zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_pipeline.evaluation.metrics.definitions import metric_of
from ft_pipeline.release.champion import Candidate, ChampionRecord, Promotion
from ft_pipeline.settings.project import PromotionSettings


@dataclass(frozen=True)
class Decision:
    """Whether the champion moves, and why."""

    move: bool
    name: str | None
    """The row to release, or None."""
    reasons: list[str]
    """One line per examined candidate: what it showed, or what it lacks."""
    evidence: dict[str, Any]
    """The numbers that support the move: metric, value, paired differences; empty without a move."""


def decide(
    comparison: Mapping[str, Any],
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    held: Mapping[str, int] | None = None,
) -> Decision:
    """Examine the tuned rows, best first, then the best prompt variant. The first that meets all requirements moves.

    comparison: the document of `ft compare --json`; its rows may have `general: {"accuracy": share, "loss": nats}`.
    candidates: by row name, the artifacts and checks of what can be released; a row without one is not a candidate.
    held: see champion.manually_rejected. A model that a person rejected is not promoted.
    """
    judge = _PromotionRules(comparison, candidates, settings, champion)
    reasons: list[str] = []
    for row in [*judge.tuned(), *judge.ranked("prompt")[:1]]:
        lacks = judge.lacks(row)
        sequence = (held or {}).get(candidates[row["name"]].fingerprint)
        if not lacks and sequence is not None:
            lacks = [f"was passed over by hand (record {sequence}): `ft promote {row['name']}` releases it"]
        if not lacks:
            return Decision(True, row["name"], [*reasons, judge.case_for(row)], judge.evidence(row))
        reasons.append(f"{row['name']}: {'; '.join(lacks)}")
    return Decision(False, None, reasons or ["the comparison holds nothing that could be released"], {})


def promotion(
    decision: Decision, candidates: Mapping[str, Candidate], comparison_fingerprint: str | None = None
) -> Promotion | None:
    """Return the move of a decision, as champion.promote expects it; None if nothing moves."""
    if not decision.move or decision.name is None:
        return None
    evidence = {"comparison": comparison_fingerprint, **decision.evidence}
    return Promotion(candidates[decision.name], decision.reasons[-1], evidence)


def decide_one(
    comparison: Mapping[str, Any],
    candidates: Mapping[str, Candidate],
    settings: PromotionSettings,
    champion: ChampionRecord | None,
    name: str,
) -> Decision:
    """Apply the same rules to one row by name, regardless of other candidates: return `move`, or what it lacks."""
    judge = _PromotionRules(comparison, candidates, settings, champion)
    row = next(row for row in judge.rows if row["name"] == name)
    lacks = judge.lacks(row)
    return Decision(not lacks, name, lacks or [judge.case_for(row)], judge.evidence(row))


def gates(training_data_summary: Mapping[str, Any], merged_model_summary: Mapping[str, Any]) -> dict[str, bool]:
    """Return the checks of a tuned model, from the summaries in its manifests. A missing check counts as failed."""
    audit = training_data_summary.get("audit", {}).get("checks", {})
    return {
        "token_audit": bool(audit) and all(check.get("passed") is True for check in audit.values()),
        "merge": merged_model_summary.get("passed") is True,
    }


class _PromotionRules:
    """The comparison, with a method for each question of the rules."""

    def __init__(
        self,
        comparison: Mapping[str, Any],
        candidates: Mapping[str, Candidate],
        settings: PromotionSettings,
        champion: ChampionRecord | None,
    ) -> None:
        self.document = comparison
        self.rows: list[Mapping[str, Any]] = list(comparison["rows"])
        self.pairs: list[Mapping[str, Any]] = list(comparison["pairs"])
        self.scored_champion: str | None = (comparison.get("champion") or {}).get("fingerprint")
        self.candidates = candidates
        self.settings = settings
        self.champion = champion

    def ranked(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the rows of a kind that can be released and have a score, best first."""
        rows = [row for row in self.rows if row["kind"] == kind and row["name"] in self.candidates]
        return self._best_first(rows)

    def tuned(self) -> list[Mapping[str, Any]]:
        """Return the row of each experiment that a run may release, best first.

        It is the merged model, or the adapter if it cannot be merged (prompt_tuning).
        """
        merged = {row["experiment"] for row in self.rows if row["kind"] == "merged"}
        adapters = [row for row in self.ranked("adapter") if row["experiment"] not in merged]
        return self._best_first([*self.ranked("merged"), *adapters])

    def lacks(self, row: Mapping[str, Any]) -> list[str]:
        """Return the requirements that the row does not meet; empty if it can be released."""
        candidate = self.candidates[row["name"]]
        if self.champion is not None and candidate.fingerprint == self.champion.fingerprint:
            return ["is the champion already"]
        failed = [f"the gate {name} did not pass" for name, passed in candidate.gates.items() if not passed]
        unbeaten = [self._not_beaten(row, rival) for rival in self._rivals(row)]
        return [*failed, *filter(None, unbeaten), *self._against_champion(row), *self._forgotten(row)]

    def case_for(self, row: Mapping[str, Any]) -> str:
        rivals = {rival["name"]: rival for rival in self._rivals(row)}
        beaten = [(name, self._lead(row, rival)) for name, rival in rivals.items()]
        standing = [rival for rival in self._champion_rows() if rival["name"] not in rivals]
        beaten += [("the champion before it", self._lead(row, rival)) for rival in standing]
        words = [f"{name} by {_interval(pair)}" for name, pair in beaten if pair]
        return f"{row['name']} beats {', '.join(words)} on {self.settings.metric}"

    def evidence(self, row: Mapping[str, Any]) -> dict[str, Any]:
        pairs = [self._lead(row, rival) for rival in [*self._rivals(row), *self._champion_rows()]]
        return {
            "metric": self.settings.metric,
            "score": row["scores"].get(self.settings.metric),
            "pairs": [dict(pair) for pair in pairs if pair],
            "general": row.get("general"),
            "forgetting_margin": self.settings.forgetting_margin,
        }

    def _rivals(self, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the rows that the row must beat: the best baseline; for a prompt variant every other baseline."""
        untouched = [
            rival for rival in self.rows if rival["kind"] in {"base", "prompt"} and rival["name"] != row["name"]
        ]
        return untouched if row["kind"] == "prompt" else self._best_first(untouched)[:1]

    def _against_champion(self, row: Mapping[str, Any]) -> list[str]:
        if self.champion is None:
            return []
        standing = self._champion_rows()
        if not standing:
            return [f"the champion {self.champion.name} has no score in this comparison to be beaten: run `ft run`"]
        missing = self._not_beaten(row, standing[0])
        return [f"champion: {missing}"] if missing else []

    def _champion_rows(self) -> list[Mapping[str, Any]]:
        """Return the champion's rows: those of kind `champion`, or those of the same artifact."""
        if self.champion is None:
            return []
        own = [row for row in self.rows if row["kind"] == "champion" and self._scored_is_present()]
        same = [name for name, known in self.candidates.items() if known.fingerprint == self.champion.fingerprint]
        return own or [row for row in self.rows if row["name"] in same]

    def _scored_is_present(self) -> bool:
        """Return whether the comparison's champion is the current one. A person may have moved it since."""
        return self.champion is not None and self.scored_champion in (None, self.champion.fingerprint)

    def _not_beaten(self, row: Mapping[str, Any], rival: Mapping[str, Any]) -> str | None:
        metric = self.settings.metric
        lead, deficit = self._lead(row, rival), self._lead(rival, row)
        if lead is None and deficit is None:
            return f"was not compared with {rival['name']} on {metric}"
        if lead is None or lead["difference"] <= 0:
            return f"does not beat {rival['name']} on {metric}"
        if lead["low"] <= 0:
            return f"leads {rival['name']} on {metric} by {_interval(lead)}, which is not clear of zero"
        return None

    def _lead(self, row: Mapping[str, Any], rival: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._pair(row, rival, self.settings.metric)

    def _pair(self, better: Mapping[str, Any], worse: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
        wanted = (better["name"], worse["name"], metric)
        return next((pair for pair in self.pairs if (pair["better"], pair["worse"], pair["metric"]) == wanted), None)

    def _forgotten(self, row: Mapping[str, Any]) -> list[str]:
        """Return a reason if general accuracy drops by more than the margin, against the base model.

        A drop whose interval includes zero does not count.
        """
        if row["kind"] == "prompt":
            return []
        plain = [base for base in self.rows if base["kind"] == "base" and _accuracy(base) is not None]
        after = _accuracy(row)
        if not plain or after is None:
            return ["its general accuracy was not measured"]
        before = max(plain, key=lambda base: _accuracy(base) or 0.0)
        drop = (_accuracy(before) or 0.0) - after
        pair = self._pair(before, row, "general_accuracy")
        if drop <= self.settings.forgetting_margin or (pair is not None and pair["low"] <= 0):
            return []
        return [f"forgets: general accuracy drops by {drop:.3f}, more than {self.settings.forgetting_margin:.3f}"]

    def _best_first(self, rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        metric = self.settings.metric
        sign = 1 if metric_of(self.document, metric).lower_is_better else -1
        return sorted(
            (row for row in rows if metric in row["scores"]), key=lambda row: sign * row["scores"][metric]["value"]
        )


def _accuracy(row: Mapping[str, Any]) -> float | None:
    return (row.get("general") or {}).get("accuracy")


def _interval(pair: Mapping[str, Any]) -> str:
    return f"{pair['difference']:.3f} (95 %: {pair['low']:.3f} to {pair['high']:.3f})"
