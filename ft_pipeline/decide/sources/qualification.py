"""Whether a judge may decide alone: it must agree with people, and with itself."""

from collections.abc import Sequence

import numpy as np

from ft_pipeline.evaluation.opinions.agreement import ENOUGH_PAIRS, Agreement, agreement
from ft_pipeline.evaluation.opinions.correction import WinRate, length_adjusted
from ft_pipeline.evaluation.opinions.verdict_tables import (
    Judgement,
    Judgements,
    Ratings,
    judgement_of,
    majority,
)

ALPHA, LOWEST_ALPHA = 0.4, 0.2
"""The agreement with people that qualifies a judge, and what its lower bound must exceed."""
OF_PEOPLES_OWN = 0.8
"""The share of people's own agreement that qualifies a judge, too."""
SAME_VERDICT = 0.6
"""The least share of pairs on which both orders must give the same verdict."""
UNPARSABLE = 0.02
"""The largest share of replies that may be unreadable."""


def agreement_of_people(ratings: Ratings) -> Agreement | None:
    """Return how far people agree with each other."""
    verdicts = (list(by_rater.values()) for by_rater in ratings.values())
    return agreement({str(number): [rating.value for rating in of_pair] for number, of_pair in enumerate(verdicts)})


def agreement_with_people(ratings: Ratings, judgements: Judgements) -> Agreement | None:
    """Return how far the judge agrees with the majority of people, on all pairs that both compared."""
    units = {}
    for number, (answers, by_rater) in enumerate(ratings.items()):
        judged = judgement_of(answers, judgements)
        if judged is not None:
            people = majority([rating.value for rating in by_rater.values()])
            units[str(number)] = [people, float(np.sign(judged.score - 0.5))]
    return agreement(units)


def why_not_qualified(
    judged: Sequence[Judgement], wins: WinRate, with_people: Agreement | None, of_people: Agreement | None
) -> str | None:
    """Return why a judge may not decide on a pair of models, as a clause; None if it may.

    judged: its verdicts on this pair. wins: what follows from them.
    """
    if len(judged) < ENOUGH_PAIRS:
        return f"it compared {len(judged)} pairs, and {ENOUGH_PAIRS} are wanted"
    if with_people is None or with_people.pairs < ENOUGH_PAIRS:
        pairs = with_people.pairs if with_people else 0
        return f"people rated {pairs} of the pairs that it compared in this project, and {ENOUGH_PAIRS} are wanted"
    if not _agrees(with_people, of_people):
        return f"it does not agree enough with people: {with_people.describe()}, and {ALPHA} is wanted"
    same = sum(judgement.is_same for judgement in judged) / len(judged)
    if same < SAME_VERDICT:
        return f"it gives the same verdict in both orders on {same:.0%} of the pairs, and {SAME_VERDICT:.0%} is wanted"
    unparsable = sum(judgement.unparsable for judgement in judged) / (2 * len(judged))
    if unparsable > UNPARSABLE:
        return f"{unparsable:.0%} of its replies could not be read, and at most {UNPARSABLE:.0%} is wanted"
    scores, lengths = (np.array([getattr(entry, name) for entry in judged]) for name in ("score", "log_length"))
    adjusted = length_adjusted(scores, lengths)
    if (adjusted - 0.5) * (wins.value - 0.5) <= 0:
        return f"for answers of equal length, it would prefer {adjusted:.0%}: it may like their length"
    return None


def _agrees(with_people: Agreement, of_people: Agreement | None) -> bool:
    """Return whether the judge agrees with people well, or nearly as well as people do with each other."""
    lowest = with_people.low or 0.0
    if with_people.alpha >= ALPHA and lowest > LOWEST_ALPHA:
        return True
    if of_people is None or of_people.pairs < ENOUGH_PAIRS or (of_people.low or 0.0) <= 0:
        return False
    return lowest > 0 and with_people.alpha >= OF_PEOPLES_OWN * of_people.alpha
