"""The test answers that got worse, by kind of fault and by slice, beside the training rows that are like them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.evaluation.comparison.estimates import item_gains
from ft_pipeline.evaluation.comparison.result_records import Changes
from ft_pipeline.evaluation.error_analysis.answer_faults import OTHER, faults_of
from ft_pipeline.evaluation.error_analysis.similar_answers import SimilarAnswer, SimilarAnswers
from ft_pipeline.evaluation.metrics.definitions import Metric

Sample = Mapping[str, Any]
"""A record of samples.parquet."""


@dataclass(frozen=True)
class FaultCount:
    """How many answers have a fault."""

    fault: str
    before: int
    after: int
    worse: int
    """Of the answers that got worse."""


@dataclass(frozen=True)
class SliceCount:
    """How many answers of a slice got worse."""

    name: str
    answers: int
    worse: int
    gain: float
    """Mean gain of its answers; negative: they got worse."""


@dataclass(frozen=True)
class LikeRow:
    """A training row that is like a test answer."""

    origin: str
    question: str
    answer: str
    shared: float
    """Share of the test answer's 3-word sequences that the row's answer contains."""


@dataclass(frozen=True)
class WorseAnswer:
    """One test answer that got worse."""

    item: str
    gain: float
    question: str
    reference: str
    before: str
    after: str
    faults: Sequence[str]
    slices: Sequence[str]
    like_answer: LikeRow | None
    """The row that may have taught the answer."""
    like_question: LikeRow | None
    """The row that answers the most similar question."""


@dataclass(frozen=True)
class WorseAnswers:
    """What got worse from one row of a comparison to another one."""

    before: str
    after: str
    metric: str
    answers: int
    worse: int
    faults: Sequence[FaultCount]
    """The most frequent among the worse answers first; answers without a known fault come last."""
    slices: Sequence[SliceCount]
    """The lowest gain first."""
    worst: Sequence[WorseAnswer]
    """The greatest loss first."""


def find_worse_answers(
    changes: Changes,
    metric: Metric,
    unused: Collection[str],
    samples: Mapping[str, Sequence[Sample]],
    questions: Mapping[str, str],
    slices: Mapping[str, Sequence[str]],
    trained: SimilarAnswers,
    count: int,
) -> WorseAnswers:
    """Return the answers that got worse from `changes.before` to `.after`.

    metric: that of the changes. unused: the rails that say nothing about this task (faults_of). samples: by row name,
    in the order of the items. questions: by item. slices: the names of the slices of each conversation. count: how many
    of the worst answers are listed.
    """
    olds, news = samples[changes.before], samples[changes.after]
    gains = item_gains(samples, (changes.before, changes.after), changes.metric, metric)
    worse = [index for index, gain in enumerate(gains) if gain < -metric.worth_noticing]
    worse.sort(key=lambda index: (gains[index], index))
    faults = [[faults_of(sample, unused) for sample in side] for side in (olds, news)]

    def describe(index: int) -> WorseAnswer:
        old, new = olds[index], news[index]
        question = questions.get(new["item"], new["prompt"])
        like_answer = trained.like_answer(new["answer"])
        return WorseAnswer(
            new["item"],
            gains[index],
            question,
            new["reference"],
            old["answer"],
            new["answer"],
            faults[1][index],
            slices.get(new["group"], ()),
            _like_row(like_answer),
            _like_row(trained.like_question(question, new["answer"])),
        )

    return WorseAnswers(
        changes.before,
        changes.after,
        changes.metric,
        len(gains),
        len(worse),
        _count_faults(faults[0], faults[1], worse),
        _count_slices(news, gains, slices, set(worse)),
        [describe(index) for index in worse[:count]],
    )


def _count_faults(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], worse: Sequence[int]
) -> list[FaultCount]:
    counts = [Counter(fault for found in side for fault in found) for side in (before, after)]
    of_worse = Counter(fault for index in worse for fault in after[index])
    names = sorted(
        counts[0] | counts[1], key=lambda fault: (fault == OTHER, -of_worse[fault], -counts[1][fault], fault)
    )
    return [FaultCount(name, counts[0][name], counts[1][name], of_worse[name]) for name in names]


def _count_slices(
    samples: Sequence[Sample], gains: Sequence[float], slices: Mapping[str, Sequence[str]], worse: set[int]
) -> list[SliceCount]:
    members: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        for name in slices.get(sample["group"], ()):
            members.setdefault(name, []).append(index)
    counts = [
        SliceCount(name, len(own), len(worse.intersection(own)), sum(gains[index] for index in own) / len(own))
        for name, own in members.items()
    ]
    return sorted(counts, key=lambda count: (count.gain, count.name))


def _like_row(similar: SimilarAnswer | None) -> LikeRow | None:
    if similar is None:
        return None
    return LikeRow(similar.row.origin, similar.row.question, similar.row.answer, similar.shared)
