"""The error analysis of a comparison, for the report and its page in the UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import UNUSED_RAIL
from ft_pipeline.evaluation.comparison.slice_members import slices_of_test_conversations
from ft_pipeline.evaluation.error_analysis.similar_answers import SimilarAnswers
from ft_pipeline.evaluation.error_analysis.trained_rows import trained_answers
from ft_pipeline.evaluation.error_analysis.worse_answers import WorseAnswers, find_worse_answers
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.tables.formats.turns import spoken_text

MAX_WORST = 20
"""Number of answers that the page explains."""


def explain_worse_answers(
    store: ArtifactStore,
    comparison_artifact: Artifact,
    comparison: Comparison,
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    conversations: Mapping[str, Sequence[Mapping[str, Any]]],
) -> WorseAnswers | None:
    """Return the answers that tuning made worse, with the training rows that are like them; None if nothing was tuned.

    samples: by row name, in the order of the items. conversations: the messages of the test conversations, by id.
    """
    row = comparison.row(comparison.changes.after) if comparison.changes else None
    if row is None:
        return None
    scores = store.require(*comparison_artifact.inputs[row.source])
    adapter = store.require(*scores.inputs["adapter"])
    questions = {
        sample["item"]: question
        for sample in samples[row.name]
        if (question := _question(sample["item"], conversations)) is not None
    }
    trained = SimilarAnswers(trained_answers(store, adapter))
    slices = slices_of_test_conversations(store, comparison_artifact)
    assert comparison.changes is not None
    unused = {rail.measure for rail in comparison.about(row, "rail") if rail.because in UNUSED_RAIL}
    metric = comparison.metric(comparison.changes.metric)
    return find_worse_answers(comparison.changes, metric, unused, samples, questions, slices, trained, MAX_WORST)


def _question(item: str, conversations: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Return the turn before the answer; None if its row has been erased since."""
    conversation, _, turn = item.rpartition(":")
    messages = conversations.get(conversation)
    return spoken_text(messages[int(turn) - 1]) if messages and int(turn) else None
