"""What the verdicts on a pair of models say: wins, answers that can go out, and how far the raters agree."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ft_pipeline.evaluation.comparison.leads import Conversations, Floats, interval
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.opinions.agreement import ENOUGH_PAIRS, Agreement, agreement
from ft_pipeline.ratings.rating_ledger import VERDICTS, Rating

SCORES = {"candidate": 1.0, "rival": -1.0, "both_good": 0.0, "neither": 0.0}
"""By verdict: +1 if the candidate's answer is better, 0 for a tie."""


@dataclass(frozen=True)
class Result:
    """The verdicts on one pair of models. Of several raters of a pair of answers, the mean counts."""

    candidate: str
    rival: str
    pairs: int
    """Pairs of answers that were rated."""
    raters: Mapping[str, int]
    """By alias: the pairs that were rated."""
    wins: int
    """Pairs in which the candidate's answer is better."""
    losses: int
    ties: int
    verdicts: Mapping[str, int]
    """Number of each verdict, of all raters."""
    win_rate: Score
    """Of the candidate; a tie counts half. With its 95 % interval over clusters, where these are known."""
    can_go_out: Score
    """Share of the pairs of which an answer can go out."""
    agreement: Agreement | None
    """None: no two raters rated the same pairs, or all verdicts are the same."""

    def lines(self) -> list[str]:
        """Return the result as sentences."""
        by = ", ".join(f"{rater} ({count})" for rater, count in self.raters.items())
        return [
            f"{self.pairs} pairs of answers, rated by {by}.",
            f"{self.candidate} is better in {self.wins}, {self.rival} in {self.losses}; {self.ties} are ties.",
            f"{self.candidate} wins {_percent(self.win_rate)}. A tie counts half.",
            f"An answer can go out in {_percent(self.can_go_out)} of the pairs.",
            *([f"Agreement of the raters: {self.agreement.describe()}."] if self.agreement else []),
        ]


def result_of(candidate: str, rival: str, ratings: Sequence[Rating], units: Mapping[str, str] | None = None) -> Result:
    """Return the result of some verdicts about these two rows; at least one.

    units: by test item, the cluster of its conversation. None: not known, and the shares have no intervals.
    """
    by_item: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_item[rating.item].append(rating)
    of_raters = {item: [SCORES[rating.verdict] for rating in of_item] for item, of_item in by_item.items()}
    scores = np.array([fmean(of_item) for of_item in of_raters.values()])
    passing = np.array([fmean(rating.verdict != "neither" for rating in of_item) for of_item in by_item.values()])
    clusters = Conversations([units[item] for item in by_item]) if units else None
    counts = Counter(rating.verdict for rating in ratings)
    return Result(
        candidate=candidate,
        rival=rival,
        pairs=len(by_item),
        raters=dict(sorted(Counter(rating.rater for rating in ratings).items())),
        wins=int((scores > 0).sum()),
        losses=int((scores < 0).sum()),
        ties=int((scores == 0).sum()),
        verdicts={verdict: counts[verdict] for verdict in VERDICTS},
        win_rate=_mean(clusters, (scores + 1) / 2),
        can_go_out=_mean(clusters, passing),
        agreement=agreement(of_raters),
    )


def results_of(ratings: Sequence[Rating]) -> list[Result]:
    """Return the result of each pair of names, in the order in which they were first rated."""
    by_names: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_names[rating.candidate, rating.rival].append(rating)
    return [result_of(*names, of_names) for names, of_names in by_names.items()]


def next_step(result: Result, available: int) -> str:
    """Return what to do after rating. available: number of pairs of answers that differ."""
    run = "`ft run` brings these ratings into the comparison and the decision."
    if result.pairs >= ENOUGH_PAIRS:
        return f"Next: {run}"
    if result.pairs >= available:
        return f"Next: {run} All pairs are rated, but {ENOUGH_PAIRS} are needed to decide. Add test conversations."
    more = f"ft rate {result.candidate} {result.rival} -n {min(ENOUGH_PAIRS, available)}"
    return f"Next: {ENOUGH_PAIRS} pairs may decide. Rate more with `{more}`, or let another person rate."


def _mean(clusters: Conversations | None, values: Floats) -> Score:
    """Return the mean of values from 0 to 1, with Wilson's interval. With ties it is a little wider than needed."""
    if clusters is None:
        return Score(float(values.mean()), None, None)
    return interval(clusters.means(values[:, None], is_rate=True)[0])


def _percent(score: Score) -> str:
    bounds = "" if score.low is None else f" ({score.low:.0%} to {score.high:.0%})"
    return f"{score.value:.0%}{bounds}"
