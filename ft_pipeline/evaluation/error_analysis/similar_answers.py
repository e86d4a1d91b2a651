"""Finds the training row that most likely taught a model an answer: the one whose answer shares the most with it.

This is a search for texts. It shows where the words of an answer may come from; it does not prove that the row caused
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ft_pipeline.evaluation.error_analysis.trained_rows import TrainedAnswer
from ft_pipeline.evaluation.scoring.retrieval import TextIndex
from ft_pipeline.tables.dedup.tokens import words_of

CANDIDATES = 20
"""Answers, found by their words, whose sequences of words are compared."""
SEQUENCE = 3
"""Words in a sequence, as for near duplicates."""


@dataclass(frozen=True)
class SimilarAnswer:
    """A training row that is like a test answer."""

    row: TrainedAnswer
    shared: float
    """Share of the test answer's 3-word sequences that the row's answer contains."""


class SimilarAnswers:
    """The answers that a model learned, searchable by a test question and by the model's answer to it."""

    def __init__(self, trained: Sequence[TrainedAnswer]) -> None:
        self._trained = trained

    @cached_property
    def _by_answer(self) -> TextIndex:
        return TextIndex([row.answer for row in self._trained])

    @cached_property
    def _by_question(self) -> TextIndex:
        return TextIndex([row.question for row in self._trained])

    def like_answer(self, answer: str) -> SimilarAnswer | None:
        """Return the row whose answer contains the most 3-word sequences of an answer; None if no row shares one.

        Of equal rows, the one with the most words in common comes first (BM25).
        """
        sequences = _sequences(answer)
        found = [self._compare(sequences, position) for position in self._by_answer.search(answer, CANDIDATES)]
        best = max(found, key=lambda similar: similar.shared, default=None)
        return best if best and best.shared > 0 else None

    def like_question(self, question: str, answer: str) -> SimilarAnswer | None:
        """Return the row whose question is most like a test question (BM25); None without rows."""
        positions = self._by_question.search(question, 1)
        return self._compare(_sequences(answer), positions[0]) if positions else None

    def _compare(self, sequences: set[tuple[str, ...]], position: int) -> SimilarAnswer:
        row = self._trained[position]
        return SimilarAnswer(row, len(sequences & _sequences(row.answer)) / max(1, len(sequences)))


def _sequences(text: str) -> set[tuple[str, ...]]:
    """Return the sequences of 3 words of a text; all its words if it has fewer."""
    words = list(words_of(text))
    length = min(SEQUENCE, len(words))
    return {tuple(words[begin : begin + length]) for begin in range(len(words) - length + 1)} if length else set()
