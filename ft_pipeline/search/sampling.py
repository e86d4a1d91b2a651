"""Choose the values of the next trial with Optuna, and say which settings mattered.

The study is made again from the ended trials each time. So the store is the only record, and a search that was killed
goes on with the values that it had chosen.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.search.space import Dimension, Value
from ft_pipeline.search.trials import Trial

STARTUP_TRIALS = 5
"""Number of trials with random values before the sampler learns from losses."""
MIN_FOR_IMPORTANCE = 4
"""Number of complete trials below which nothing is said about what mattered."""


def next_values(
    space: Sequence[Dimension], ended: Sequence[Trial], seed: int, first: Mapping[str, Value] | None
) -> dict[str, Value] | None:
    """Return the values of the next trial; None if every combination has been tried.

    first: the values of the first trial, if the experiment's own values are in the space.
    """
    if not ended and first is not None:
        return dict(first)
    study = _study(space, ended, seed)
    suggested = _values(study.ask(_distributions(space)).params, space)
    if any(dimension.is_range for dimension in space):
        return suggested
    tried = [trial.values for trial in ended]
    if suggested not in tried:
        return suggested
    keys = [dimension.key for dimension in space]
    products = itertools.product(*(dimension.choices for dimension in space))
    combinations = (dict(zip(keys, product, strict=True)) for product in products)
    untried = [values for values in combinations if values not in tried]
    return random.Random(seed).choice(untried) if untried else None


def importances(space: Sequence[Dimension], ended: Sequence[Trial]) -> dict[str, float]:
    """Return the share of the variance of losses that each setting explains (fANOVA), the largest first.

    Empty with too few complete trials, or if all losses are equal. Stopped trials do not count.
    """
    complete = [trial for trial in ended if trial.state == "complete"]
    if len(complete) < MIN_FOR_IMPORTANCE or len({trial.loss for trial in complete}) == 1:
        return {}
    import optuna

    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(_study(space, complete, 0), evaluator=evaluator))


def _study(space: Sequence[Dimension], ended: Sequence[Trial], seed: int) -> Any:
    """Return an Optuna study with the ended trials. Stopped ones have the losses that they had."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    )
    distributions = _distributions(space)
    for trial in ended:
        state = optuna.trial.TrialState[{"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[trial.state]]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=trial.loss if trial.state == "complete" else None,
                params={key: _encoded(trial.values[key], distributions[key]) for key in distributions},
                distributions=distributions,
                intermediate_values={number: loss for number, loss in enumerate(trial.losses) if math.isfinite(loss)},
            )
        )
    return study


def _distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    import optuna.distributions as kinds

    distributions: dict[str, Any] = {}
    for dimension in space:
        if not dimension.is_range:
            distributions[dimension.key] = kinds.CategoricalDistribution([json.dumps(v) for v in dimension.choices])
        elif dimension.integer:
            distributions[dimension.key] = kinds.IntDistribution(int(dimension.low), int(dimension.high), dimension.log)
        else:
            distributions[dimension.key] = kinds.FloatDistribution(dimension.low, dimension.high, dimension.log)
    return distributions


def _encoded(value: Value, distribution: Any) -> Any:
    """Return a value as Optuna keeps it. A choice may be a list, so choices are kept as JSON."""
    return json.dumps(value) if hasattr(distribution, "choices") else value


def _values(parameters: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Value]:
    """Return the values of a trial. A number of a range is rounded to four digits, as YAML shows it."""
    values: dict[str, Value] = {}
    for dimension in space:
        value = parameters[dimension.key]
        if not dimension.is_range:
            values[dimension.key] = json.loads(value)
        else:
            rounded = value if dimension.integer else float(f"{value:.4g}")
            values[dimension.key] = min(max(rounded, dimension.low), dimension.high)
    return values
