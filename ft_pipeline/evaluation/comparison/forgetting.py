"""The rule of forgetting: how much general accuracy a tuned model loses against its own base model.

It is applied once, while the comparison is made. Promotion, recommendation, report and card read its result.
"""

from collections.abc import Mapping, Sequence

from ft_pipeline.evaluation.comparison.drops import drop_between
from ft_pipeline.evaluation.comparison.leads import Estimate
from ft_pipeline.evaluation.comparison.row_records import GENERAL_ACCURACY, Forgetting
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.model_kinds import TUNED


def forgetting_by_model(
    models: Sequence[ScoredModel],
    estimates: Mapping[str, Mapping[str, Estimate]],
    bases: Mapping[str, str],
    margin: float,
) -> dict[str, Forgetting]:
    """Return the result of the rule for each tuned model whose general accuracy was measured, and that of its base.

    estimates: by name, then by metric. bases: input of the comparison → fingerprint of the base model that its models
    come from. margin: the largest drop that is accepted.
    """
    measured = [model for model in models if GENERAL_ACCURACY in estimates[model.name]]
    results = {}
    for model in measured:
        base = base_of(model, measured, bases)
        if (model.kind in TUNED or model.kind == "champion") and base is not None:
            before, after = (estimates[name][GENERAL_ACCURACY] for name in (base.name, model.name))
            results[model.name] = judge(base.name, before, after, margin)
    return results


def base_of(model: ScoredModel, models: Sequence[ScoredModel], bases: Mapping[str, str]) -> ScoredModel | None:
    """Return the untouched model that a model was trained from; None if it is not among the models.

    Never another base model: its accuracy says nothing about what training lost. If the fingerprint is unknown, it is
    the one that was scored for the same experiment, or the only one.
    """
    untouched = [candidate for candidate in models if candidate.kind == "base"]
    own = bases.get(model.source)
    if own is not None:
        return next((candidate for candidate in untouched if bases.get(candidate.source) == own), None)
    same = [base for base in untouched if base.source == f"{model.experiment}/prompt_baseline"] or untouched
    return same[0] if len(same) == 1 else None


def judge(base_name: str, base: Estimate, tuned: Estimate, margin: float) -> Forgetting:
    """Return the result of the rule, from the answers of both to the same general questions."""
    found = drop_between(base, tuned, margin)
    assert found is not None  # two rates have at least the two invented questions
    return Forgetting(
        base=base_name,
        verdict="forgets" if found.verdict == "lost" else found.verdict,
        questions=found.count,
        lost=found.lost,
        won=found.won,
        drop=found.drop,
        low=found.low,
        high=found.high,
        margin=margin,
        wanted=found.wanted,
    )
