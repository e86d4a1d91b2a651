"""Labels in answers: accuracy, macro-F1, and the label that was found, for the confusion matrix.

The rule: case, signs and white space do not count, so `**Refund.**` is the label `refund`. A text that is more than a
label has the one label that it names as whole words; if it names several or none, it has no label, and is wrong. A
label inside a longer one that the text names does not count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.corpus_values import macro_f1
from ft_pipeline.evaluation.metrics.definitions import Metric
from ft_pipeline.evaluation.metrics.project_metric import ProjectMetric
from ft_pipeline.settings.checks import MACRO_F1, plain_label

NO_LABEL = ""
"""In the column of a label: the answer has none."""
FOUND, EXPECTED = "found", "expected"
"""Names of the columns of labels: `NAME/found` and `NAME/expected`."""


class Classification(ProjectMetric):
    """Compares the label in an answer with that of the reference."""

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        super().__init__(name)
        self._by_plain_text = {plain_label(label): label for label in labels}

    @property
    def definitions(self) -> dict[str, Metric]:
        return {
            self.name: Metric(f"{self.name}, accuracy", False, "share", "answers with the reference's label"),
            f"{self.name}/{MACRO_F1}": Metric(
                f"{self.name}, macro-F1", False, "0 to 1", "mean F1 of the labels that references have"
            ),
        }

    def find_label(self, text: str) -> str:
        """Return the label in a text; NO_LABEL if it has none, or several."""
        plain = plain_label(text)
        if plain in self._by_plain_text:
            return self._by_plain_text[plain]
        rest, found = f" {plain} ", []
        for label in sorted(self._by_plain_text, key=len, reverse=True):
            if f" {label} " in rest:
                found.append(label)
                rest = rest.replace(f" {label} ", " | ")
        return self._by_plain_text[found[0]] if len(found) == 1 else NO_LABEL

    def score(self, item: Item, answer: str) -> dict[str, Any]:
        expected, found = self.find_label(item.reference), self.find_label(answer)
        return {
            self.name: float(found == expected != NO_LABEL),
            f"{self.name}/{EXPECTED}": expected,
            f"{self.name}/{FOUND}": found,
        }

    def score_all(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
        expected, found, groups = (
            [sample[key] for sample in samples] for key in (f"{self.name}/{EXPECTED}", f"{self.name}/{FOUND}", "group")
        )
        return {f"{self.name}/{MACRO_F1}": macro_f1(expected, found, groups)}

    def check_references(self, items: Sequence[Item], all_items: Sequence[Item]) -> None:
        labels = ", ".join(self._by_plain_text.values())
        self.check_each(
            items,
            lambda item: self.find_label(item.reference) == NO_LABEL,
            f"have none of the labels {labels}",
            "Add their labels, or correct the rows.",
        )
        used = {self.find_label(item.reference) for item in all_items}
        unused = [label for label in self._by_plain_text.values() if label not in used]
        if unused:
            raise self.error(f"no reference has the label {unused[0]!r}", "Remove it, or write it as in the rows.")
