"""Values that Dagster's event log accepts. A numpy scalar there would fail the step after its work is done."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

PREVIEW_CHARACTERS = 300


def clean_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with numpy scalars as Python scalars, mappings and lists as JSON, and without None."""
    return {key: _clean(value) for key, value in values.items() if value is not None}


def _clean(value: Any) -> Any:
    if isinstance(value, (str, bool, int, dg.MetadataValue, dg.TableSchema, dg.TableColumnLineage)):
        return value
    if hasattr(value, "item") and not isinstance(value, (list, tuple, dict)):
        return _clean(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return dg.MetadataValue.json(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return value


def picture(png: bytes, text: str) -> dg.MetadataValue:
    """A picture in the asset's page. Callers keep it under 100 kB, because the event log stores it."""
    return dg.MetadataValue.md(f"![{text}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})")


def table(rows: Sequence[Mapping[str, Any]], descriptions: Mapping[str, str] | None = None) -> dg.MetadataValue:
    """A table in the asset's page, with cells cut to PREVIEW_CHARACTERS. Its columns are those of the first row.

    descriptions: column → description, which the UI shows under *Show schema*; it also sets the column order.
    """
    if not rows:
        return dg.MetadataValue.text("no rows")
    texts = descriptions or {}
    names = [name for name in texts if name in rows[0]] + [name for name in rows[0] if name not in texts]
    records = [dg.TableRecord({str(name): _cell(row.get(name)) for name in names}) for row in rows]
    columns = [dg.TableColumn(str(name), _kind(rows[0][name]), texts.get(str(name))) for name in names]
    schema = dg.TableSchema(columns=columns)
    return dg.MetadataValue.table(records=records, schema=schema)


def _kind(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return "string"


def column_schema(columns: Sequence[tuple[str, str, str]]) -> dg.TableSchema:
    """Dagster's schema of a table, from (name, type, description)."""
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, description) for name, kind, description in columns])


def _cell(value: Any) -> str | int | float | bool:
    plain = _clean(value) if not isinstance(value, (dict, list)) and value is not None else value
    if isinstance(plain, float):
        return round(plain, 4)
    if isinstance(plain, (int, bool)):
        return plain
    text = "" if plain is None else str(plain)
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + "…"
