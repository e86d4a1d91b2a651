"""What the checks of a project found, for the report: right fields of every row, and the labels of the chosen one."""

from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.plots import confusion_picture
from ft_pipeline.evaluation.comparison.check_records import Confusion, FieldResult, FieldResults
from ft_pipeline.evaluation.comparison.score import describe_interval


def check_values(comparison: Comparison, chosen: str | None) -> dict[str, Any]:
    """Return the values of the template. chosen: the row of the verdict; the best row stands in for none."""
    name = chosen or (comparison.rows[0].name if comparison.rows else None)
    matrices = [matrix for matrix in comparison.confusions if matrix.row == name]
    fields = [results for results in comparison.field_results if results.row == name]
    of_row: list[FieldResults | Confusion] = [*fields, *matrices]
    return {
        "field_tables": _field_tables(comparison),
        "confusion_picture": confusion_picture(matrices),
        "worst": [sentence for result in of_row for sentence in result.describe_worst()],
    }


def _field_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a table for each check of JSON answers: the right share of each field, by row."""
    tables = []
    for metric in dict.fromkeys(results.metric for results in comparison.field_results):
        of_rows = [results for results in comparison.field_results if results.metric == metric]
        fields = list(dict.fromkeys(entry.field for results in of_rows for entry in results.fields))
        rows = []
        for results in of_rows:
            found = {entry.field: entry for entry in results.fields}
            cells = [_cell(found[field]) if field in found else {"value": "", "interval": ""} for field in fields]
            rows.append({"name": results.row, "cells": cells})
        tables.append({"metric": metric, "fields": fields, "rows": rows})
    return tables


def _cell(result: FieldResult) -> dict[str, str]:
    return {
        "value": f"{result.right.value:.0%}",
        "interval": describe_interval(result.right.low, result.right.high, 2),
    }
