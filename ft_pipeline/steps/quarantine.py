"""Every row that is not used, with the reason: faulty rows, duplicates, and rows that show a held-out answer.

**Look here** if fewer rows train than you expected. `reasons` counts them, `examples` shows some, `where`
names all.

**If it fails:** one of the tables before it failed. docs/formats.md says what to do about each reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ft_pipeline.page import Columns, Page, Table
from ft_pipeline.step import BuildContext, SpecContext, step_of
from ft_pipeline.steps.shared.table_pages import MATCHES_SCHEMA, OF_FILES, OF_LOCATIONS, OF_ROWS
from ft_pipeline.steps.tables import present
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.finished_tables import QUARANTINE
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.quarantine import Part, build_quarantine

QUARANTINE_HELP = "ft sql \"select code, message, raw from quarantine where file = 'FILE' and row = 12\""


QUARANTINED_EXAMPLES = 3
"""Rows of the quarantine at the top of its page, of different reasons."""


def spec(context: SpecContext) -> Spec:
    """Return the spec of all rows that are not used."""
    tables = (*present(context, FORMATS), "conversations")
    return Spec("quarantine", {name: context.artifact(name).reference for name in tables})


def build(build: BuildContext) -> dict[str, Any]:
    """Collect the rows that each table set aside."""
    return build_quarantine(
        [Part(name, folder, build.spec.inputs[name][1]) for name, folder in build.inputs.items()], build.out
    )


def page(artifact: Artifact) -> Page:
    """Return the page of the quarantine: the reasons with their counts, examples, and where the rows are."""
    summary = artifact.summary
    examples, others = _examples(summary["first"])
    return {
        "reasons": Table(_reasons(summary), OF_LOCATIONS),
        "examples": Table(examples, OF_ROWS),
        "see_any_row": QUARANTINE_HELP,
        "accounts": Table(summary["accounts"], OF_FILES),
        "where": Table(summary["where"], OF_LOCATIONS),
        "more_examples": Table(others, OF_ROWS) if others else None,
        "dagster/row_count": summary["rows"],
        "dagster/column_schema": Columns(QUARANTINE),
    }


def _reasons(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each reason with its number of rows, most frequent first."""
    meanings = {location["code"]: location["meaning"] for location in summary["where"]}
    counts = sorted(summary["reasons"].items(), key=lambda item: -item[1])
    return [{"code": code, "count": count, "meaning": meanings.get(code, "")} for code, count in counts]


def _examples(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return (some rows, the others). The first ones are of different reasons, if there are several."""
    first_of_code = {row["code"]: at for at, row in reversed(list(enumerate(rows)))}
    order = sorted(range(len(rows)), key=lambda at: first_of_code[rows[at]["code"]] != at)
    ordered = [rows[at] for at in order]
    return ordered[:QUARANTINED_EXAMPLES], ordered[QUARANTINED_EXAMPLES:]


CHECKS = (MATCHES_SCHEMA,)

STEP = step_of(
    __name__,
    stage="tables",
    deps=(*FORMATS, "conversations"),
    kinds=frozenset({"duckdb", "parquet"}),
    code_version="2",
)
