"""The pandera schema of each finished table, and the check that every row of the table passes it.

Rows that people wrote are judged by row_rules.py. A finished table that breaks its schema is a defect of the pipeline.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.accounts import FIRST_ROWS, CheckResult
from ft_pipeline.tables.dedup.hashes import hash_pieces
from ft_pipeline.tables.finished_tables import FinishedTable
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.formats.base import Column
from ft_pipeline.tables.formats.comparison_texts import as_large, join_texts
from ft_pipeline.tables.formats.turns import ROLES
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.tables.text_bytes import buffers

if TYPE_CHECKING:  # pandera takes a second to load; the graph needs only the names of what this module has
    from pandera.pandas import Check, DataFrameSchema

Passes = Callable[[pd.Series], pd.Series]


def schema(table: FinishedTable) -> "DataFrameSchema":
    """Return the schema of a table's rows. `TableCheck` looks at what is unique in the table as a whole."""
    import pandera.pandas as pandera

    columns = {
        column.name: pandera.Column(
            pd.ArrowDtype(column.arrow_type),
            checks=[_check(name, passes) for name, passes in _conditions(column)],
            nullable=column.nullable,
            description=column.description,
        )
        for column in table.columns
    }
    rules = [_check(name, passes) for name, passes in table.rules.items()]
    return pandera.DataFrameSchema(columns, checks=rules, name=table.name, strict=True, ordered=True)


def _check(name: str, passes: Callable) -> "Check":
    from pandera.pandas import Check

    return Check(passes, name=name, error=name, ignore_na=False)


def _unique_hashes(name: str) -> "DataFrameSchema":
    """Return the schema of a table with one column of hashes, none of which stands twice."""
    import pandera.pandas as pandera

    return pandera.DataFrameSchema({name: pandera.Column(np.uint64, unique=True)})


def _conditions(column: Column) -> Iterable[tuple[str, Passes]]:
    if column.values:
        yield f"one of {', '.join(column.values)}", partial(_is_in, values=column.values)
    if column.minimum is not None:
        yield f"at least {column.minimum}", partial(_is_at_least, minimum=column.minimum)
    if column.arrow_type == MESSAGES:
        yield "each turn has a role and a content", _has_turns


def _arrow(series: pd.Series) -> pa.Array:
    cells = pa.array(series)
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _flags(passed: pa.Array, series: pd.Series) -> pd.Series:
    return pd.Series(passed.fill_null(True).to_numpy(zero_copy_only=False), index=series.index)


def _is_in(series: pd.Series, values: tuple[str, ...]) -> pd.Series:
    cells = _arrow(series)
    return _flags(pc.or_(pc.is_null(cells), pc.is_in(cells, pa.array(values))), series)


def _is_at_least(series: pd.Series, minimum: int) -> pd.Series:
    return _flags(pc.greater_equal(_arrow(series), minimum), series)


def _has_turns(series: pd.Series) -> pd.Series:
    messages = _arrow(series)
    turns = messages.flatten()
    sound = pc.and_(pc.is_in(turns.field("role"), pa.array(ROLES)), pc.is_valid(turns.field("content")))
    passed = pc.greater(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False)
    passed[pc.list_parent_indices(messages).filter(pc.invert(sound)).to_numpy()] = False
    return pd.Series(passed, index=series.index)


class TableCheck:
    """Checks a table while it is written: each batch, and what is unique in the table as a whole.

    pandera sees every row. The cells stay in Arrow's memory, so that a batch takes a few milliseconds.
    """

    def __init__(self, table: FinishedTable) -> None:
        self._table, self._schema = table, schema(table)
        self._keys: list[np.ndarray] = []
        self._rows = self._failures = 0
        self._first: list[str] = []

    def add(self, batch: pa.Table) -> None:
        """Check rows of the table, in their order."""
        self._validate(self._schema, batch.to_pandas(types_mapper=pd.ArrowDtype), self._rows)
        self._rows += batch.num_rows
        if self._table.unique:
            self._keys.append(_hashes([batch[name].combine_chunks() for name in self._table.unique]))

    def result(self, may_repeat: np.ndarray | None = None) -> CheckResult:
        """Return whether all rows passed. may_repeat: a bool per row, whether it may be equal to others."""
        if self._keys:
            name = ", ".join(self._table.unique)
            frame = pd.DataFrame({name: np.concatenate(self._keys)}, copy=False)
            if may_repeat is not None and may_repeat.any():
                frame = frame[~may_repeat]
            self._validate(_unique_hashes(name), frame, 0)
        if not self._failures:
            return CheckResult(True, f"{self._table.name}: {self._rows:,} rows, as declared", 0)
        cases = "; ".join(self._first)
        message = f"{self._table.name}: {self._failures:,} value(s) are not as declared; report this: {cases}"
        return CheckResult(False, message, self._failures)

    def _validate(self, table_schema: "DataFrameSchema", frame: pd.DataFrame, begin: int) -> None:
        """Validate rows. begin: the number of rows of the table before them."""
        from pandera.errors import SchemaErrors

        try:
            table_schema.validate(frame, lazy=True, inplace=True)
        except SchemaErrors as error:
            cases = error.failure_cases
            is_cell = cases["schema_context"] == "Column"
            cases = pd.concat([cases[is_cell], cases[~is_cell].drop_duplicates(["check", "index"])])  # one per row
            self._failures += len(cases)
            for case in cases.head(FIRST_ROWS - len(self._first)).itertuples(index=False):
                place = "" if pd.isna(case.index) else f"row {begin + int(case.index) + 1}: "
                in_cell = case.schema_context == "Column"
                if case.check == "field_uniqueness":  # of hashes, which say nothing to a reader
                    self._first.append(f"{place}{case.column} stands there twice")
                    continue
                what = f"{case.column} is {shorten(str(case.failure_case))}: " if in_cell else ""
                self._first.append(f"{place}{what}{case.check}")


def _hashes(columns: list[pa.Array]) -> np.ndarray:
    """Return a uint64 per row. That two different rows have the same is as unlikely as in the search for duplicates."""
    texts = as_large(columns[0])
    for column in columns[1:]:
        texts = join_texts(texts, column.cast(pa.large_string()), "\x1f")
    offsets, data = buffers(texts)
    return hash_pieces(data, offsets[:-1], np.diff(offsets))


def check_table(table: FinishedTable, rows: pa.Table) -> CheckResult:
    """Check a table that is in memory."""
    check = TableCheck(table)
    check.add(rows)
    return check.result()


def together(*results: CheckResult) -> CheckResult:
    """Return the check of several tables as one."""
    failed = [result for result in results if not result.passed]
    message = "; ".join(result.message for result in failed or results)
    return CheckResult(not failed, message, sum(result.value for result in failed))
