"""What a tuned model must keep of its own base model: general knowledge, the behavior that probes show, and tasks.

It keeps what it had if the upper one-sided 95 % bound of the drop is below a margin, and has lost it if the lower bound
is above it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ft_pipeline.decide.bench import ONE_SIDED, Bench
from ft_pipeline.decide.claim import Claim, KeptFacts, verdict_of
from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate, bounds, lead_values
from ft_pipeline.evaluation.comparison.probe_outcomes import WANTED, is_readable, is_wanted
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.scoring.probe_files import PROBES_FILE

GENERAL = "general_accuracy"
POWER = 6.2
"""(1.645 + 0.842)²: the squared standard errors that must lie between a drop and the margin, so that the upper 95 %
bound is below the margin in 80 % of the cases."""
MIN_IN_BASE = 0.2
"""Share of the questions to decline that a base model must decline. Below it, there is nothing to lose."""


def claims(bench: Bench) -> Iterator[Claim]:
    """Yield the claims of each row that was trained from a base model."""
    for row in bench.comparison.rows:
        if not row.rights.has_base:
            continue
        model = bench.row_models[row.name]
        base = _base_of(bench, model, [other for other in bench.models if bench.has(GENERAL, other.name)])
        if base is not None and bench.has(GENERAL, row.name):
            before, after = (bench.estimates[name][GENERAL] for name in (base.name, row.name))
            margin = bench.config.forgetting_margin
            yield change("general", row.name, GENERAL, base.name, before, after, margin)
        if row.kind != "champion" or row.technique:
            base = _base_of(bench, model, list(bench.row_models.values()))
            for name, rule in bench.config.probes.items():
                yield _probes(row.name, name, rule, base, model)
            for task, margin in bench.config.must_hold.items():
                yield from _task(bench, row.name, task, margin, base)


def _base_of(bench: Bench, model: ScoredModel, models: list[ScoredModel]) -> ScoredModel | None:
    """Return the untouched model that a model was trained from; None if it is not among the models: never another one.

    If its fingerprint is unknown, it is the one that was scored for the same experiment, or the only one.
    """
    bases, untouched = bench.config.bases, [other for other in models if other.kind == "base"]
    own = bases.get(model.source)
    if own is not None:
        return next((other for other in untouched if bases.get(other.source) == own), None)
    same = [base for base in untouched if base.source == f"{model.experiment}/prompt_baseline"] or untouched
    return same[0] if len(same) == 1 else None


def change(
    kind: str,
    row: str,
    measure: str,
    base: str,
    before: Estimate,
    after: Estimate,
    margin: float,
    *,
    lower_is_better: bool = False,
    **facts: Any,
) -> Claim:
    """Return the claim that a row did not get worse than its base model by more than a margin."""
    drop = lead_values(before, after, lower_is_better=lower_is_better)
    low, high = bounds(drop, ONE_SIDED, highest=before.highest)
    if low is None or high is None:
        return _unknown(kind, row, measure, margin, "single", base=base)
    sign = 1 if lower_is_better else -1
    worse = sign * (after.numerators - before.numerators)
    observed = sign * (after.value - before.value)  # the mean of `drop` also has the two that its bounds invent
    return Claim(
        kind=kind,
        row=row,
        rival=base,
        measure=measure,
        value=-observed,
        low=-high,
        high=-low,
        limit=-margin,
        count=len(worse),
        verdict=verdict_of(-high, -low, -margin),
        facts=KeptFacts(
            lost=int((worse > 0).sum()),
            won=int((worse < 0).sum()),
            needed=questions_to_decide(observed, float(np.var(drop, ddof=1)), margin),
            before=before.value,
            after=after.value,
            is_rate=before.is_rate and after.is_rate,
            **facts,
        ),
    )


def questions_to_decide(drop: float, variance: float, margin: float) -> int | None:
    """Return how many questions show in 80 % of the cases that the drop is below the margin, if the true drop is the
    observed one, d. None if d is not below the margin, by a hundredth of it: then no number does.

    variance: s², of one question. With N questions the drop has the standard error s/√N, and its
    upper bound, d + 1.645 s/√N, varies by as much. So it is below the margin in 80 % of the cases if 0.842 s/√N fit
    between them: margin - d = (1.645 + 0.842) s/√N, from which N = POWER s² / (margin - d)². Of rates, s² is about the
    share of questions whose result changed.
    """
    room = margin - drop
    return math.ceil(round(POWER * variance / room**2, 6)) if room > margin / 100 else None


def _unknown(kind: str, row: str, measure: str, margin: float, because: str, **facts: Any) -> Claim:
    known = {"kind": kind, "row": row, "measure": measure, "limit": -margin, "verdict": "unknown"}
    return Claim(**known, because=because, facts=KeptFacts(**facts))


def _answers(model: ScoredModel | None, name: str, digest: str) -> list[dict[str, Any]]:
    """Return a model's answers to the questions with this hash, in their order; an empty list if there are none."""
    if model is None or model.row.get("probes", {}).get(name) != digest:
        return []
    return [record for record in model.records(PROBES_FILE) if record["probe"] == name]


def _probes(row: str, name: str, rule: Mapping[str, Any], base: ScoredModel | None, model: ScoredModel) -> Claim:
    before, after = _answers(base, name, rule["digest"]), _answers(model, name, rule["digest"])
    margin, wanted = rule["margin"], WANTED[rule["expect"]]
    if base is None:
        return _unknown("probes", row, name, margin, "no_base", wanted=wanted)
    if not before or not after:
        because = "base_unasked" if after else "unasked"
        return _unknown("probes", row, name, margin, because, base=base.name, wanted=wanted)
    if not is_readable([record["query"] for record in after], rule):
        return _unknown("probes", row, name, margin, "language", wanted=wanted)
    results = np.array([[is_wanted(record["answer"], rule) for record in records] for records in (before, after)]).T
    items = Conversations([record["item"] for record in before])
    share_before, share_after = items.means(results.astype(float), is_rate=True)
    claim = change("probes", row, name, base.name, share_before, share_after, margin, wanted=wanted)
    never = rule["expect"] == "refuse" and share_before.value < MIN_IN_BASE
    return claim.model_copy(update={"verdict": "void", "because": "not_in_base"}) if never else claim


def _task(bench: Bench, row: str, task: str, margin: float, base: ScoredModel | None) -> Iterator[Claim]:
    """Yield a claim per metric of a task; one that says why, if nothing is known."""
    names = [name for name in bench.estimates[row] if name.startswith(f"{task}/")]
    if base is None or not names or not all(bench.has(name, base.name) for name in names):
        because = "no_base" if base is None else "base_unasked" if names else "no_task"
        yield _unknown("task", row, task, margin, because, **({"base": base.name} if base else {}))
        return
    for name in names:
        before, after = (bench.estimates[model][name] for model in (base.name, row))
        lower = bench.comparison.metric(name).lower_is_better
        yield change("task", row, name, base.name, before, after, margin, lower_is_better=lower)
