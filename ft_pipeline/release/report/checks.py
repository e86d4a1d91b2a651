"""What the checks of a project found, for the report: right fields of every row, and the labels of the chosen one."""

from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.plots import confusion_picture
from ft_pipeline.decide.sections import field_sections
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResults


def check_values(comparison: Comparison, chosen: str | None) -> dict[str, Any]:
    """Return the values of the template. chosen: the row of the verdict; the best row stands in for none."""
    name = chosen or (comparison.rows[0].name if comparison.rows else None)
    matrices = [matrix for matrix in comparison.confusions if matrix.row == name]
    fields = [results for results in comparison.field_results if results.row == name]
    of_row: list[FieldResults | Confusion] = [*fields, *matrices]
    return {
        "fields": field_sections(comparison.field_results),
        "confusion_picture": confusion_picture(matrices),
        "worst": [sentence for result in of_row for sentence in result.describe_worst()],
    }
