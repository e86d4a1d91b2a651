"""What people and a judge said of two answers, in words, for the report."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from ft_pipeline.decide.sources.pair_opinions import JUDGED, RATED
from ft_pipeline.evaluation.opinions.verdict_tables import (
    Answers,
    Judgements,
    Rating,
    Ratings,
    hash_of_answer,
    judgement_of,
    majority,
    ratings_of,
    read_judgements,
    read_ratings,
)
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

Sample = Mapping[str, Any]
"""A record of samples.parquet."""


class Verdicts:
    """The verdicts that a comparison read."""

    def __init__(self, ratings: Ratings, judgements: Judgements) -> None:
        self._ratings = ratings
        self._judgements = judgements

    @classmethod
    def of(cls, store: ArtifactStore, comparison: Artifact) -> "Verdicts":
        """Return the verdicts of a comparison artifact."""
        folders = {
            name: store.require(*comparison.inputs[name]).path for name in (RATED, JUDGED) if name in comparison.inputs
        }
        return cls(read_ratings(folders.get(RATED)), read_judgements(folders.get(JUDGED)))

    def describe(self, before: Sample, after: Sample) -> str:
        """Return who found which of two answers to one test item better; empty if they were not compared."""
        answers = Answers(after["item"], hash_of_answer(after["answer"]), hash_of_answer(before["answer"]))
        ratings, judgement = ratings_of(answers, self._ratings), judgement_of(answers, self._judgements)
        sentences = [f"People: {_of_people(ratings)}."] if ratings else []
        sentences += [f"The judge: {_in_words(judgement.score - 0.5)}."] if judgement else []
        return " ".join(sentences)


def _of_people(ratings: list[Rating]) -> str:
    out = "" if fmean(rating.can_go_out for rating in ratings) > 0.5 else ", and neither can go out"
    raters = f" ({len(ratings)} raters)" if len(ratings) > 1 else ""
    return f"{_in_words(majority([rating.value for rating in ratings]))}{out}{raters}"


def _in_words(lead: float) -> str:
    return "after is better" if lead > 0 else "before is better" if lead < 0 else "none is better"
