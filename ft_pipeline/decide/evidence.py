"""The numbers behind a decision, as a champion's record keeps them. Their form is older than claims, and stays."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ft_pipeline.decide.claim import Claim, KeptFacts, OpinionFacts
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.promote import Court
from ft_pipeline.decide.sentences import agreement_of, say, who

KEPT = {
    "general": {"shown": "kept", "refuted": "forgets", "open": "cannot be told"},
    "checks": {
        "shown": "kept",
        "refuted": "lost",
        "open": "cannot be told",
        "void": "not in base",
        "unknown": "unknown",
    },
}
"""What the verdicts of claims about a base model are called."""


def evidence(court: Court, row: Row) -> dict[str, Any]:
    """Return the numbers behind a decision about a row, without those on the test rows if it was screened out."""
    comparison, rivals = court.comparison, court.rivals(row)
    is_shown = comparison.why_screened_out(row) is None
    score = row.scores.get(comparison.primary) if is_shown else None
    against = [comparison.bar(row), court.champion_row] if is_shown else []
    leads = [lead_of(comparison, row, rival) for rival in against if rival is not None]
    checks = [check_of(comparison, claim) for claim in comparison.about(row, "probes", "task")]
    told = [claim for rival in rivals for claim in comparison.about(row, "opinion", rival=rival.name)]
    opinions = [opinion_of(claim) for claim in told if is_shown]
    return {
        "metric": comparison.primary,
        "score": asdict(score) if score else None,
        "pairs": [lead for lead in leads if lead],
        "general": row.general,
        "level": court.level(row),
        "p": court.p(row) if is_shown else None,
        "forgetting": forgetting_of(comparison, row),
        **({"base_checks": checks} if checks else {}),
        "champion_compared": court.contaminated is None,
        "decided_by": {
            rival.name: _decided_by(comparison, claim)
            for rival in rivals
            if (claim := comparison.deciding(row, rival)).because != "no_evidence"
        },
        **({"opinions": opinions} if opinions else {}),
    }


def _decided_by(comparison: Comparison, claim: Claim) -> str:
    """Return the name of what decides between two rows: people, a judge, two keys, or a metric."""
    if claim.kind == "opinion":
        return claim.measure
    return "two keys" if comparison.has_two_keys else comparison.primary


def lead_of(comparison: Comparison, row: Row, rival: Row, metric: str | None = None) -> dict[str, Any] | None:
    """Return the lead of a row over a rival; None if it does not lead."""
    lead = comparison.lead(row, rival, metric) if comparison.leads(row, rival, metric) else None
    return None if lead is None else pair_of(lead)


def pair_of(lead: Claim) -> dict[str, Any]:
    """Return a lead, seen from the row that is ahead."""
    ends = {"difference": lead.value, "low": lead.low, "high": lead.high}
    return {"better": lead.row, "worse": lead.rival, "metric": lead.measure, **ends}


def forgetting_of(comparison: Comparison, row: Row) -> dict[str, Any] | None:
    """Return what a row forgot of its base model's general knowledge; None if that was not measured."""
    claim = next((claim for claim in comparison.about(row, "general") if claim.value is not None), None)
    if claim is None:
        return None
    told = claim.told(KeptFacts)
    return {
        "base": claim.rival,
        "verdict": KEPT["general"][claim.verdict],
        "questions": claim.count,
        "lost": told.lost,
        "won": told.won,
        **_drop(claim),
        "margin": -claim.limit,
        "wanted": told.needed,
    }


def check_of(comparison: Comparison, claim: Claim) -> dict[str, Any]:
    """Return what a row kept of its base model's behavior, or of its result on a task."""
    told, base = claim.told(KeptFacts), claim.rival
    because = told.because
    if claim.verdict == "unknown":
        because = say(comparison, claim).partition(": ")[2]
        base = told.base if claim.because == "single" else ""
    return {
        "kind": claim.kind,
        "name": claim.measure,
        "verdict": KEPT["checks"][claim.verdict],
        "margin": -claim.limit,
        "wanted": told.wanted,
        "base": base or None,
        "count": claim.count,
        "before": told.before,
        "after": told.after,
        "lost": told.lost,
        "won": told.won,
        **_drop(claim),
        "needed": told.needed,
        "is_rate": told.is_rate,
        "because": because,
    }


def _drop(claim: Claim) -> dict[str, float | None]:
    """Return a change as a drop."""
    return {
        name: None if value is None else 0.0 - value
        for name, value in (("drop", claim.value), ("low", claim.high), ("high", claim.low))
    }


def opinion_of(claim: Claim) -> dict[str, Any]:
    """Return what people, or a judge, said of the answers of two rows."""
    ends = {"win_rate": claim.value, "low": claim.low, "high": claim.high, "p": claim.p}
    facts = claim.told(OpinionFacts).model_dump(mode="json")
    counts = {key: facts[key] for key in ("rated", "judged")}
    told = {key: facts[key] for key in ("alpha", "may_decide", "because", "can_go_out", "changed")}
    return {"row": claim.row, "rival": claim.rival, "by": claim.measure, **counts, **ends, **told}


def who_decided(evidence: Mapping[str, Any]) -> list[str]:
    """Return what decided against each rival, as sentences. evidence: that of a champion's record, which may be older
    and not say it."""
    opinions = {(entry["rival"], entry["by"]): entry for entry in evidence.get("opinions", [])}
    sentences = []
    for rival, decided in evidence.get("decided_by", {}).items():
        opinion = opinions.get((rival, decided))
        by_metric = "two keys decided" if decided == "two keys" else f"the metric {decided} decided"
        sentences.append(f"Against {rival}, {by_metric if opinion is None else _decision_of(opinion)}.")
    return sentences


def _decision_of(opinion: Mapping[str, Any]) -> str:
    alpha = f"; agreement {agreement_of(opinion['alpha'])}" if opinion["alpha"] else ""
    return f"the decision was that of {who(opinion['by'], opinion['rated'], opinion['judged'])}{alpha}"
