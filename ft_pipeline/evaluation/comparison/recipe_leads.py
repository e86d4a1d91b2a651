"""Whether a recipe leads, and not only the weights of one training: leads over several seeds, with one interval.

Test conversations and trainings are two sources of chance. With n conversations, K trainings and leads L_1..L_K over a
rival: V = s_q²/n + s_K²/K, where s_q is the standard deviation over conversations of the lead values averaged over the
trainings, and s_K that of L_1..L_K. The degrees of freedom are Satterthwaite's (1946).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from ft_pipeline.evaluation.comparison.lead_records import RecipeLead
from ft_pipeline.evaluation.comparison.leads import Estimate, Floats, values_over
from ft_pipeline.evaluation.comparison.records import Comparison
from ft_pipeline.evaluation.comparison.scored_models import ScoredModel
from ft_pipeline.evaluation.comparison.sweep_results import trainings_by_seed

MIN_TRAININGS = 3
"""Number of trainings from which the lead of a recipe has an interval: two have one degree of freedom."""


def recipe_leads(
    comparison: Comparison, models: Sequence[ScoredModel], estimates: Mapping[str, Mapping[str, Estimate]]
) -> list[RecipeLead]:
    """Return the lead over the best baseline, and over the champion, of each tuned row that was trained several times.

    models, estimates: also those of the other trainings, which have no row. The metric is the primary one.
    """
    name, metric = comparison.primary_metric, comparison.metric()
    champion = next((row for row in comparison.rows if row.kind == "champion"), None)

    def rivals_of(tuned: str) -> list[str]:
        row = comparison.row(tuned)
        rivals = [rival for rival in (comparison.best_baseline(of=row), champion) if rival is not None]
        return [rival.name for rival in rivals if row is None or comparison.why_no_metric(row, rival) is None]

    return [
        judge_trainings(
            tuned.name,
            rival,
            [values_over(rival, training.name, name, metric, estimates) for training in trainings],
        )
        for tuned, trainings in trainings_by_seed(models)
        for rival in rivals_of(tuned.name)
        if all(name in estimates[model] for model in (rival, *(training.name for training in trainings)))
    ]


def judge_trainings(row: str, rival: str, values: Sequence[Floats]) -> RecipeLead:
    """Return the lead of a recipe. values: of each training, the values of its lead over the rival, by conversation."""
    leads = [float(of_training.mean()) for of_training in values]
    trainings, conversations = len(values), len(values[0])
    lead = float(np.mean(leads))
    if trainings < MIN_TRAININGS or conversations < 2:
        return RecipeLead(row, rival, trainings, leads, lead, None, None, None)
    of_questions = float(np.mean(values, axis=0).var(ddof=1)) / conversations
    of_trainings = float(np.var(leads, ddof=1)) / trainings
    variance = of_questions + of_trainings
    if not variance:
        return RecipeLead(row, rival, trainings, leads, lead, lead, lead, lead)
    freedom = variance**2 / (of_questions**2 / (conversations - 1) + of_trainings**2 / (trainings - 1))
    half, one_sided = (float(stdtrit(freedom, level)) * math.sqrt(variance) for level in (0.975, 0.95))
    return RecipeLead(row, rival, trainings, leads, lead, lead - half, lead + half, lead - one_sided)
