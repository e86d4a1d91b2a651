"""The opinions of people and of a judge about the rows of a comparison, from the tables `ratings` and `judgements`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.decide.bench import Bench
from ft_pipeline.decide.claim import Claim, OpinionFacts, verdict_of
from ft_pipeline.decide.sources.qualification import agreement_of_people, agreement_with_people, why_not_qualified
from ft_pipeline.evaluation.comparison.leads import Conversations, interval, unit_of
from ft_pipeline.evaluation.comparison.result_records import METRIC_IS_NAMED, WANTED_RATINGS
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline.evaluation.model_kinds import TUNED, ModelKind
from ft_pipeline.evaluation.opinions.agreement import Agreement, agreement
from ft_pipeline.evaluation.opinions.correction import Floats, WinRate, corrected_win_rate, win_rate
from ft_pipeline.evaluation.opinions.verdict_tables import (
    Answers,
    Judgement,
    Rating,
    hash_of_answer,
    judgement_of,
    rated_under_names,
    ratings_of,
    read_exclusion,
    read_judgements,
    read_ratings,
)

FEWEST = 10
"""Pairs of answers from which an opinion is shown. Fewer may be equal answers of other models by chance."""
OF_OWN: tuple[ModelKind, ...] = (*TUNED, "prompt", "classifier", "champion")
"""The rows that may be released, and the released one."""
HALF = 0.5
"""Of the comparisons: neither row is preferred."""
RATED, JUDGED = "ratings", "judgements"
"""The inputs of a comparison with the two tables."""


@dataclass(frozen=True)
class Pair:
    """The verdicts on the answers of two rows."""

    row: str
    rival: str
    ratings: Sequence[tuple[str, Sequence[Rating]]]
    """By pair of answers that people rated: its conversation, and the verdicts of all raters."""
    judgements: Sequence[tuple[str, Judgement]]
    """By pair of answers that the judge compared: its conversation, and the verdict."""
    units: Mapping[str, str]
    """Conversation → the unit of statistics that it belongs to (leads.unit_of)."""
    changed: int
    """Pairs of answers of these rows that people rated before one of them changed, and not since."""

    @cached_property
    def scores_of_people(self) -> dict[str, float]:
        """By conversation, the mean score of the row, from 0 (lost) to 1 (won)."""
        values = ((group, [rating.value for rating in ratings]) for group, ratings in self.ratings)
        return _by_conversation((group, 0.5 + float(np.mean(of_pair)) / 2) for group, of_pair in values)

    @cached_property
    def scores_of_judge(self) -> dict[str, float]:
        """The same by the judge."""
        return _by_conversation((group, judgement.score) for group, judgement in self.judgements)

    @property
    def is_corrected(self) -> bool:
        """Whether people's verdicts can correct those of the judge: it compared all conversations that they rated."""
        return bool(self.scores_of_judge) and self.scores_of_people.keys() <= self.scores_of_judge.keys()

    def wins_by_people(self) -> WinRate:
        """Return the share of comparisons that the row wins by people's verdicts, with the judge's where possible."""
        rated, judged = self.scores_of_people, self.scores_of_judge
        if not self.is_corrected:
            return win_rate(self.values(rated))
        of_rated = {group: judged[group] for group in rated}
        return corrected_win_rate(self.values(rated), self.values(of_rated), self.values(judged))

    def values(self, scores: Mapping[str, float]) -> Floats:
        """Return what each unit of statistics adds to the mean of the scores of conversations, shape (units,)."""
        units = Conversations([self.units[group] for group in scores])
        [mean] = units.means(np.array([[score] for score in scores.values()]))
        return np.round(mean.influence + mean.value, 12)  # equal scores stay equal

    def share_that_can_go_out(self) -> Score:
        """Return the share of the rated pairs of which an answer can go out."""
        shares = [[float(np.mean([rating.can_go_out for rating in ratings]))] for _, ratings in self.ratings]
        [share] = Conversations([self.units[group] for group, _ in self.ratings]).means(np.array(shares), is_rate=True)
        return interval(share)


def claims(bench: Bench) -> Sequence[Claim]:
    """Return the claims of opinions_of: they are made before the comparison, which says whose opinion decides."""
    return bench.opinions


def opinions_of(
    kinds: Mapping[str, ModelKind],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    inputs: Mapping[str, Path],
    *,
    names_metric: bool = False,
) -> list[Claim]:
    """Return a claim for the opinion of people, and one for that of a judge, about each row that may be released, or
    was, against each other row.

    kinds, samples: by row name; the samples have the same items in the same order. inputs: folders, with `ratings` and
    `judgements` where there are any; `judgements.<n>`: earlier verdicts of the same judge, on other answers.
    names_metric: whether the project names the metric that decides.
    """
    ratings, judgements = read_ratings(inputs.get(RATED)), read_judgements(inputs.get(JUDGED))
    earlier = [read_judgements(inputs[name]) for name in sorted(inputs) if name.startswith(f"{JUDGED}.")]
    everything = {answers: judgement for entries in (*earlier, judgements) for answers, judgement in entries.items()}
    of_people, with_people = agreement_of_people(ratings), agreement_with_people(ratings, everything)
    excluded, by_names = read_exclusion(inputs.get(JUDGED)), rated_under_names(inputs.get(RATED))
    units = {sample["group"]: unit_of(sample) for sample in next(iter(samples.values()), ())}
    opinions: list[Claim] = []
    for row, rival, answers in _answers_of_pairs(kinds, samples) if ratings or judgements else ():
        rated = [(group, found) for group, key in answers if (found := ratings_of(key, ratings))]
        compared = [(group, judged) for group, key in answers if (judged := judgement_of(key, judgements))]
        unrated = {key.item for _, key in answers if not ratings_of(key, ratings)}
        changed = len(unrated & by_names.get(frozenset((row, rival)), set()))
        pair, against = (
            Pair(row, rival, rated, compared, units, changed),
            f"{METRIC_IS_NAMED} what decides" if names_metric else None,
        )
        if len(rated) >= FEWEST:
            opinions.append(_of_people(pair, against))
            against = against or (
                "people decide on these answers" if opinions[-1].told(OpinionFacts).may_decide else None
            )
        if len(compared) >= FEWEST:
            opinions.append(_of_judge(pair, against or excluded, with_people, of_people))
    return opinions


def _of_people(pair: Pair, against: str | None) -> Claim:
    rated, wins = len(pair.ratings), pair.wins_by_people()
    if against is None and rated < WANTED_RATINGS:
        against = f"{rated} pairs are rated, and {WANTED_RATINGS} are wanted"
    if against is None and pair.changed:  # what did not change is no random part of the answers
        of = "answer has" if pair.changed == 1 else "answers have"
        against = f"{pair.changed} rated {of} changed since, and must be rated again"
    units = {str(number): [rating.value for rating in found] for number, (_, found) in enumerate(pair.ratings)}
    facts = OpinionFacts(
        rated=rated,
        judged=len(pair.judgements) if pair.is_corrected else 0,
        alpha=agreement(units),
        may_decide=against is None,
        because=against or "people compared enough of these very answers",
        can_go_out=pair.share_that_can_go_out(),
        changed=pair.changed,
    )
    return _claim(pair, "people", wins, facts)


def _of_judge(pair: Pair, against: str | None, with_people: Agreement | None, of_people: Agreement | None) -> Claim:
    wins = win_rate(pair.values(pair.scores_of_judge))
    judged = [judgement for _, judgement in pair.judgements]
    against = against or why_not_qualified(judged, wins, with_people, of_people)
    facts = OpinionFacts(
        rated=len(pair.ratings),
        judged=len(judged),
        alpha=with_people,
        may_decide=against is None,
        because=against or "it agrees with people and with itself",
        can_go_out=None,
        changed=0,
    )
    return _claim(pair, "judge", wins, facts)


def _claim(pair: Pair, by: str, wins: WinRate, facts: OpinionFacts) -> Claim:
    return Claim(
        kind="opinion",
        row=pair.row,
        rival=pair.rival,
        measure=by,
        value=wins.value,
        low=wins.low,
        high=wins.high,
        limit=HALF,
        p=wins.p,
        count=facts.rated or facts.judged,
        verdict=verdict_of(wins.low, wins.high, HALF),
        facts=facts,
    )


def decided_in_its_place(opinions: Sequence[Claim]) -> list[str]:
    """Return a sentence for each kind of opinion that decides in place of the metric."""
    sentences = []
    for by, who in (("people", "People decide"), ("judge", "A judge that agrees with people decides")):
        pairs = {tuple(sorted((claim.row, claim.rival))): claim for claim in opinions if claim.measure == by}
        named = [" and ".join(pair) for pair, claim in pairs.items() if claim.told(OpinionFacts).may_decide]
        sentences += [f"{who} between {'; '.join(named)}."] if named else []
    return [*sentences, "Elsewhere:"] if sentences else []


def _answers_of_pairs(
    kinds: Mapping[str, ModelKind], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[str, str, list[tuple[str, Answers]]]]:
    """Yield each row and rival, with the conversations of their answers that differ, and these answers."""
    hashes = {name: [hash_of_answer(sample["answer"]) for sample in samples[name]] for name in kinds}
    items = [(sample["group"], sample["item"]) for sample in next(iter(samples.values()))]
    for row in (name for name, kind in kinds.items() if kind in OF_OWN):
        for rival in (name for name in kinds if name != row):
            pairs = zip(items, hashes[row], hashes[rival], strict=True)
            answers = [(group, Answers(item, ours, theirs)) for (group, item), ours, theirs in pairs if ours != theirs]
            yield row, rival, answers


def _by_conversation(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each conversation, in a fixed order."""
    found: dict[str, list[float]] = defaultdict(list)
    for group, score in scores:
        found[group].append(score)
    return {group: float(np.mean(found[group])) for group in sorted(found)}
