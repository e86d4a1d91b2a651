"""What a tuned model must keep of its own base model, by the rule of drops.py: the behavior that probes show, and its
results on the tasks that must hold.

It is applied once, while the comparison is made. Promotion, recommendation, report and card read its result.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_pipeline.evaluation.comparison.base_check_records import BaseCheck, BaseVerdict
from ft_pipeline.evaluation.comparison.drops import drop_between
from ft_pipeline.evaluation.comparison.forgetting import base_of
from ft_pipeline.evaluation.comparison.leads import Conversations, Estimate
from ft_pipeline.evaluation.comparison.probe_outcomes import WANTED, Rule, is_readable, is_wanted
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.evaluation.scoring.probe_files import PROBES_FILE

MIN_IN_BASE = 0.2
"""Share of the questions to decline that a base model must decline. Below it, there is nothing to lose."""
RUN = "Materialize its scores, or run `ft run`"

Record = Mapping[str, Any]


def base_checks_by_model(
    models: Sequence[ScoredModel],
    estimates: Mapping[str, Mapping[str, Estimate]],
    metrics: Mapping[str, Metric],
    config: Mapping[str, Any],
    bases: Mapping[str, str],
) -> dict[str, list[BaseCheck]]:
    """Return the checks of each tuned model, by its name. Empty if the project has none.

    config: of the comparison. Optional: probes (by name: expect, must_not, refusal, margin, and digest, a hash of the
    questions), must_hold (task → margin). bases: as in forgetting_by_model.
    """
    probes, tasks = config.get("probes", {}), config.get("must_hold", {})
    results = {}
    for model in models if probes or tasks else ():
        if model.kind in TUNED or (model.kind == "champion" and model.row["model"].get("technique")):
            base = base_of(model, models, bases)
            results[model.name] = [
                *(_check_probes(name, rule, base, model) for name, rule in probes.items()),
                *(
                    check
                    for task, margin in tasks.items()
                    for check in _check_task(task, margin, base, model, estimates, metrics)
                ),
            ]
    return results


def probe_answers(model: ScoredModel, name: str, digest: str) -> list[Record]:
    """Return a model's answers to the questions with this hash, in their order; an empty list if there are none."""
    if model.row.get("probes", {}).get(name) != digest:
        return []
    return [record for record in model.records(PROBES_FILE) if record["probe"] == name]


def _check_probes(name: str, rule: Rule, base: ScoredModel | None, model: ScoredModel) -> BaseCheck:
    before = probe_answers(base, name, rule["digest"]) if base else []
    after = probe_answers(model, name, rule["digest"])
    wanted, margin = WANTED[rule["expect"]], rule["margin"]
    because = _why_unknown(before, after, base, rule)
    if base is None or because:
        return BaseCheck(kind="probes", name=name, verdict="unknown", margin=margin, wanted=wanted, because=because)
    results = np.array([[is_wanted(record["answer"], rule) for record in records] for records in (before, after)]).T
    items = Conversations([record["item"] for record in before])
    shares = items.means(results.astype(float), is_rate=True)
    never = rule["expect"] == "refuse" and shares[0].value < MIN_IN_BASE
    return _result("probes", name, base, shares, margin, verdict="not in base" if never else None, wanted=wanted)


def _why_unknown(before: Sequence[Record], after: Sequence[Record], base: ScoredModel | None, rule: Rule) -> str:
    """Return why nothing is known, as a clause; empty if something is."""
    if base is None:
        return "its base model was not scored"
    if not after:
        return f"it has not answered the present questions. {RUN}"
    if not before:
        return f"its base model, {base.name}, has not answered the present questions. {RUN}"
    if not is_readable([record["query"] for record in after], rule):
        return (
            "refusals are recognized in English, and the questions are in another language. Set `refusal`, a pattern "
            "of the words that decline"
        )
    return ""


def _check_task(
    task: str,
    margin: float,
    base: ScoredModel | None,
    model: ScoredModel,
    estimates: Mapping[str, Mapping[str, Estimate]],
    metrics: Mapping[str, Metric],
) -> list[BaseCheck]:
    """Return a check for each metric of a task; one that says why, if nothing is known."""
    ours, theirs = estimates[model.name], estimates[base.name] if base else {}
    names = [name for name in ours if name.startswith(f"{task}/")]
    if base is None or not names or any(name not in theirs for name in names):
        because = (
            "its base model was not scored"
            if base is None
            else f"its base model, {base.name}, was not scored on it. {RUN}"
            if names
            else "no task of this name was run. A group of tasks cannot be held: name its tasks"
        )
        return [BaseCheck(kind="task", name=task, verdict="unknown", margin=margin, because=because)]
    return [
        _result("task", name, base, (theirs[name], ours[name]), margin, lower_is_better=metrics[name].lower_is_better)
        for name in names
    ]


def _result(
    kind: Any,
    name: str,
    base: ScoredModel,
    pair: Sequence[Estimate],
    margin: float,
    *,
    verdict: BaseVerdict | None = None,
    wanted: str = "",
    lower_is_better: bool = False,
) -> BaseCheck:
    """Return the check of a base model's estimate and a tuned model's. verdict: in place of that of the rule."""
    before, after = pair
    found = drop_between(before, after, margin, lower_is_better=lower_is_better)
    if found is None:
        because = "it has a single document, which shows nothing"
        return BaseCheck(kind=kind, name=name, verdict="unknown", margin=margin, base=base.name, because=because)
    return BaseCheck(
        kind=kind,
        name=name,
        verdict=verdict or found.verdict,
        margin=margin,
        wanted=wanted,
        base=base.name,
        count=found.count,
        before=before.value,
        after=after.value,
        lost=found.lost,
        won=found.won,
        drop=found.drop,
        low=found.low,
        high=found.high,
        needed=found.wanted,
        is_rate=before.is_rate and after.is_rate,
    )
