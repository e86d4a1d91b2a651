"""Comparisons of invented results in few lines: rows with losses, and claims about them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from ft_pipeline.decide.claim import Claim, KeptFacts, RailFacts, RecipeFacts, ScreenFacts, verdict_of
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.sources import kept as source
from ft_pipeline.evaluation.comparison.leads import Conversations
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import ModelKind

Ends = tuple[float | None, float | None]
Of = Callable[[str], Claim]
"""Makes a claim about the row of a name."""


def lead(row: str, rival: str, value: float, ends: Ends, p: float | None = None, measure: str = "loss") -> Claim:
    """A lead with the ends of its interval."""
    known = {"kind": "lead", "row": row, "rival": rival, "measure": measure, "value": value}
    return Claim(**known, low=ends[0], high=ends[1], p=p, verdict=verdict_of(*ends))


def not_worse(kind: str, row: str, rival: str, measure: str, value: float, low: float | None, margin: float) -> Claim:
    """That a row is not worse than a rival by more than a margin. kind: `answers`, `replaces`."""
    known = {"row": row, "rival": rival, "measure": measure, "value": value, "low": low, "limit": -margin}
    return Claim(kind=kind, **known, verdict=verdict_of(low, None, -margin))


def kept(row: str, lost: int, won: int = 0, base: str = "base", questions: int = 400, margin: float = 0.05) -> Claim:
    """What a row that lost and won so many of the general questions kept."""
    before, after = ([1.0] * count + [0.0] * (questions - count) for count in (lost, won))
    pairs = np.array([before, after[::-1]]).T  # no question is both lost and won
    estimates = Conversations([str(number) for number in range(questions)]).means(pairs, is_rate=True)
    return source.change("general", row, "general_accuracy", base, *estimates, margin)


KEPT = kept("", 0)


def keeps_all(row: str) -> Claim:
    """That a row lost no general question. Made once: simulations have thousands of rows."""
    return KEPT.model_copy(update={"row": row})


def rail(row: str, faults: int, low: float, high: float, verdict: Any) -> Claim:
    """The share of 40 answers that repeat themselves."""
    known = {"measure": "repetition", "value": faults / 40, "low": low, "high": high, "limit": 0.05, "count": 40}
    facts = RailFacts(fault="repeat themselves", faults=faults)
    return Claim(kind="rail", row=row, **known, verdict=verdict, facts=facts)


def breach(row: str) -> Claim:
    """That half of its answers repeat themselves."""
    return rail(row, 20, 0.4, 0.6, "refuted")


def unasked_probes(row: str) -> Claim:
    """That nothing is known of its probes."""
    facts = KeptFacts(because="it was not asked")
    known = {"measure": "refuse", "limit": -0.05, "verdict": "unknown", "because": "clause"}
    return Claim(kind="probes", row=row, **known, facts=facts)


def recipe(row: str, rival: str, value: float, leads: Sequence[float], lower: float | None) -> Claim:
    """The lead of a recipe over trainings. lower: its lower bound; None: two trainings have none."""
    ends = {"low": lower, "high": value + 0.1} if lower is not None else {}
    verdict, because = (verdict_of(lower, None), "") if lower is not None else ("open", "few")
    facts, known = RecipeFacts(leads=leads, lower=lower), {"row": row, "rival": rival, "value": value}
    return Claim(kind="recipe", **known, **ends, verdict=verdict, because=because, facts=facts)


def screen(row: str, rival: str, value: float, error: float, count: int = 40) -> Claim:
    """A lead on validation conversations, with its standard error."""
    known = {"kind": "screen", "row": row, "rival": rival, "scope": "validation", "value": value, "count": count}
    return Claim(**known, verdict="shown" if 0 < value >= error else "refuted", facts=ScreenFacts(error=error))


def compared(rows: Iterable[Row], claims: Iterable[Claim], count: int = 40, measure: str = "loss") -> Comparison:
    """A comparison of so many test conversations."""
    numbers = {"test_rows": count, "test_items": count, "primary_metric": measure}
    return Comparison(**numbers, rules="", rows=list(rows), claims=list(claims))


def comparison(losses: Mapping[str, float], kinds: Mapping[str, ModelKind], noise: float = 0.1) -> Comparison:
    """A comparison in which each lead has the interval ± noise, and merged models keep what their base model had."""
    rows = [
        Row(
            name=name,
            kind=kinds[name],
            scores={"loss": Score(loss, loss - noise, loss + noise)},
            general={"accuracy": 0.5, "loss": 3.0},
        )
        for name, loss in losses.items()
    ]
    leads = [
        lead(better, worse, value, (value - noise, value + noise), float(ndtr(-1.96 * value / noise)))
        for better in losses
        for worse in losses
        if (value := losses[worse] - losses[better]) > 0
    ]
    return compared(rows, [*leads, *(keeps_all(row.name) for row in rows if row.kind == "merged")])


def with_rows(found: Comparison, **values: Mapping[str, Any]) -> Comparison:
    """The comparison with other values of the rows of these names."""
    return found.changed(rows=[row.model_copy(update=values.get(row.name, {})) for row in found.rows])


def only(found: Comparison, *kinds: ModelKind) -> Comparison:
    """The comparison with the rows of these kinds alone."""
    return found.changed(rows=[row for row in found.rows if row.kind in kinds])


def having(found: Comparison, *claims: Claim) -> Comparison:
    """The comparison with these claims, in place of those of their kinds about the same row, rival and measure."""
    known = {(claim.kind, claim.row, claim.rival, claim.measure) for claim in claims}
    others = [claim for claim in found.claims if (claim.kind, claim.row, claim.rival, claim.measure) not in known]
    return found.changed(claims=[*others, *claims])


def lacking(found: Comparison, *kinds: str) -> Comparison:
    """The comparison without the claims of these kinds."""
    return found.changed(claims=[claim for claim in found.claims if claim.kind not in kinds])
