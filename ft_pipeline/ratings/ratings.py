"""What people said about pairs of answers, without knowing which model wrote them. Empty before `ft rate` was used.

**Look here** to see which model people prefer, how many answers can go out, and how far people agree. From 50 rated
pairs on, people decide (docs/ratings.md).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from ft_pipeline.page import Page, Points, Table
from ft_pipeline.project import Project
from ft_pipeline.ratings.rating_ledger import Rating, content_digest, ledger, newest, read_ratings
from ft_pipeline.ratings.results import Result, results_of
from ft_pipeline.step import BuildContext, SpecContext, StepConfig, spec_of, step_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

FILE_NAME = "ratings.parquet"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("time", "rater", "candidate", "rival", "item", "group")),
        *((name, pa.string()) for name in ("candidate_answer", "rival_answer")),
        ("candidate_side", pa.int64()),
        ("verdict", pa.string()),
        ("seconds", pa.float64()),
        ("note", pa.string()),
    ]
)
"""The answers are SHA-256 of the UTF-8 texts. A later verdict of the same rater on the same item and answers replaces
the earlier one; readers do that."""


HOW = "Nobody has rated answers yet. ft rate lists the pairs of models that are worth rating."


class Config(StepConfig):
    """Which verdicts are in the table."""

    records: int
    digest: str


def used(project: Project) -> bool:
    """Return whether people rated answers."""
    return bool(ledger(project.store).paths())


def spec(context: SpecContext) -> Spec:
    """Return the spec of the verdicts that are there now."""
    records, digest = content_digest(context.store.root)
    return spec_of("ratings", {}, Config(records=records, digest=digest))


def build(build: BuildContext) -> dict[str, Any]:
    """Write the verdicts as a table, and what follows from them."""
    verdicts = read_ratings(build.store.root, Config.of(build.spec).records)
    write_table(verdicts, build.out)
    results = results_of(newest(verdicts))
    return {"verdicts": len(verdicts), "results": [asdict(result) for result in results]}


def page(artifact: Artifact) -> Page:
    """Who won, by pair of models, and how far the raters agree."""
    results = TypeAdapter(list[Result]).validate_python(artifact.summary["results"])
    if not results:
        return {"how": HOW, "verdicts": 0}
    columns = {
        "candidate": "A row of the comparison, when it was rated",
        "rival": "The row that it was compared with",
        "pairs": "Pairs of answers that were rated",
        "wins": "Pairs in which the answer of the candidate is better",
        "losses": "Pairs in which that of the rival is",
        "ties": "The other pairs",
        "can_go_out": "Share of the pairs of which an answer can go out",
        "raters": "By alias, the pairs that were rated",
        "agreement": "How far the raters agree",
    }
    return {
        "results": Table([_row(result, columns) for result in results], columns),
        "in_words": Points([line for result in results for line in result.lines()]),
        "verdicts": artifact.summary["verdicts"],
    }


def _row(result: Result, columns: dict[str, str]) -> dict[str, Any]:
    shown = {name: getattr(result, name) for name in columns}
    shown["can_go_out"] = round(result.can_go_out.value, 3)
    shown["raters"] = ", ".join(f"{rater} {count}" for rater, count in result.raters.items())
    shown["agreement"] = result.agreement.describe() if result.agreement else "not known"
    return shown


def write_table(ratings: Sequence[Rating], out: Path) -> None:
    """Write the table to the folder `out`."""
    rows = [{name: getattr(rating, name) for name in SCHEMA.names} for rating in ratings]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out / FILE_NAME)


STEP = step_of(
    __name__,
    stage="evaluation",
    kinds=frozenset({"parquet"}),
)
