"""The rows of documents, and the text by which a row is shown that is set aside."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson

from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault

RAW_CHARS = 2000
"""Length to which the text of a row that is set aside is cut."""


def expand_documents(
    expand: Callable[[Any, Sidecar], Iterable[Any]], batch: Batch, documents: list[Any], sidecar: Sidecar
) -> Batch:
    """Return the rows of some documents, each with the number of its document. A row is later shown as JSON, a fault
    with the text of its document."""
    rows, values = [], []
    for position, (number, document) in enumerate(zip(batch.rows, documents, strict=True)):
        for value in expand(document, sidecar):
            rows.append(number)
            values.append(replace(value, raw=raw_of(batch, position, value)) if isinstance(value, Fault) else value)
    return Batch(rows, values=values)


def raw_of(batch: Batch, position: int, fault: Fault) -> str:
    """Return the row as it is written in the file, shortened. An erased row has an empty text."""
    if fault.code == "excluded":
        return ""
    if batch.lines is not None:
        return batch.lines[position][: 4 * RAW_CHARS].decode("utf-8", errors="replace")[:RAW_CHARS]
    value = batch.values[position]
    return value.raw[:RAW_CHARS] if isinstance(value, Fault) else raw_json(value)


def raw_json(value: Any) -> str:
    """Return a value that has no source text (a CSV row, a record) as JSON, shortened."""
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()[:RAW_CHARS]
