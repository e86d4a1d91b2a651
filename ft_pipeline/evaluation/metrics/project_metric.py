"""What a metric of `evaluation.metrics` is: the values that it measures of an answer, and of all answers together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.definitions import Metric

SHOWN = 80
"""Number of characters of a text that an error shows."""


class ProjectMetric:
    """A metric of the project: of each answer (`score`), of all answers together (`score_all`), or both."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def definitions(self) -> dict[str, Metric]:
        """The values that are measured, by name. A model's value is the mean over its answers."""
        raise NotImplementedError

    def score(self, item: Item, answer: str) -> dict[str, Any]:
        """Return the columns of one answer: values, and texts that say what was found in it."""
        return {}

    def score_all(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
        """Return the values that need all answers of a model, spread over its answers (corpus_values.spread)."""
        return {}

    def check_references(self, items: Sequence[Item], all_items: Sequence[Item]) -> None:
        """Raise UserError if the references do not go with the settings.

        items: the test items. all_items: those of all splits.
        """

    def error(self, problem: str, fix: str) -> UserError:
        """Return an error about this metric."""
        return UserError(f"evaluation.metrics.{self.name}: {problem}. {fix}")

    def check_each(self, items: Sequence[Item], is_wrong: Callable[[Item], bool], problem: str, fix: str) -> None:
        """Raise UserError if some references are wrong, with their number and the first of them."""
        wrong = [item for item in items if is_wrong(item)]
        if wrong:
            shown = wrong[0].reference[:SHOWN]
            raise self.error(f"{len(wrong)} of {len(items)} references {problem}. The first is {shown!r}", fix)
