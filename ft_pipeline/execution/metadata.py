"""Metadata for the UI: values that Dagster's event log accepts, and where an artifact came from.

A numpy scalar in the event log would make the step fail after its work is done.
"""

import base64
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from ft_pipeline.execution.dagster_names import asset_key, dagster_settings
from ft_pipeline.execution.page_layout import (
    behind_a_click,
    fitting_json,
    fitting_table,
    fitting_text,
    json_behind_a_click,
    room_for_values,
    with_breaks,
)
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.page import Columns, Grid, Hidden, Image, Lineage, Link, Page, Picture, Points, Table, Words
from ft_pipeline.small_plots import SHOWN_CHARACTERS
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.tables.finished_tables import FinishedTable
from ft_pipeline.tables.formats.arrow_schema import type_name

PREVIEW_CHARACTERS = 300
"""Maximum characters of a cell in a table."""
NOT_RECORDED = "not_recorded"
"""The entry that says why others are missing."""
_BREAK_IN_A_LIST = "  \n  "


def metadata_of_page(page: Page) -> dict[str, Any]:
    """Return the blocks of a page as Dagster shows them, by name. A list of sentences may need a second entry."""
    shown: dict[str, Any] = {}
    for name, block in page.items():
        shown |= sentences(name, block.texts) if isinstance(block, Points) else {name: _block(block)}
    return shown


def _block(block: Any) -> Any:
    match block:
        case Words():
            return prose(block.text)
        case Picture():
            return small_picture(block.markdown)
        case Table():
            return table(block.rows, block.about)
        case Grid():
            titles = [heading.title for heading in block.headings]
            return table([dict(zip(titles, (cell.in_full for cell in row), strict=True)) for row in block.cells])
        case Link():
            return dg.MetadataValue.url(block.address)
        case Hidden():
            return behind_a_click(block.text)
        case Image():
            return picture(block.png, block.about)
        case Columns():
            return _column_schema(block.declared)
        case Lineage():
            return _column_lineage(block)
        case _:
            return block


def clean_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with numpy scalars as Python scalars, mappings and lists as JSON, and without None.

    A float that is not finite becomes text. What has no room on the page is behind a click (page_layout.py).
    """
    return _fitted(_cleaned(values))


def _cleaned(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _clean(value) for key, value in values.items() if value is not None}


def _fitted(cleaned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a page as they fit beside the longest of their keys."""
    room = room_for_values(
        f"all_{key}" if isinstance(value, dg.TableMetadataValue) else key for key, value in cleaned.items()
    )
    return {name: shown for key, value in cleaned.items() for name, shown in _fitting(key, value, room).items()}


def _fitting(key: str, value: Any, room: float) -> dict[str, Any]:
    """Return an entry as it fits on the page, and a second one if it shows a part of it."""
    if isinstance(value, dg.TableMetadataValue):
        return fitting_table(key, value, room)
    if isinstance(value, dg.JsonMetadataValue):
        return {key: fitting_json(value.data, room)}
    return {key: fitting_text(value, room) if isinstance(value, str) else value}


def metadata_of_finished(
    parts: Sequence[Callable[[], Mapping[str, Any]]], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the metadata that describes a stored artifact: that of all parts. A later part wins.

    An error in a part does not raise, because the work is done, and doing it again would end in the same way.
    """
    metadata: dict[str, Any] = {}
    errors = []

    def attempt(make: Callable[[], Mapping[str, Any]], convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        try:
            return convert(make())
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            warn(f"some of its metadata was not recorded: {errors[-1]}. The result is complete.")
            return {}

    for part in parts:
        metadata |= attempt(part, _cleaned)
    metadata = attempt(lambda: metadata, _fitted) or metadata
    return metadata | ({NOT_RECORDED: "\n".join(errors)} if errors else {})


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


def small_picture(markdown: str) -> dg.MetadataValue:
    """A picture of small_plots.py, which the asset's page shows without a click."""
    return dg.MetadataValue.md(markdown)


def picture(png: bytes, alternative_text: str) -> dg.MetadataValue:
    """A picture behind a link on the asset's page. Callers keep it under 100 kB, because the event log stores it."""
    return dg.MetadataValue.md(f"![{alternative_text}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})")


def table(rows: Sequence[Mapping[str, Any]], descriptions: Mapping[str, str] | None = None) -> dg.MetadataValue:
    """A table in the asset's page, with cells cut to PREVIEW_CHARACTERS. Its columns are those of the first row; the
    page shows the first ones, which have room, and the others behind a click.

    descriptions: column → description, which the UI shows under *Show schema*; it also sets the column order.
    """
    if not rows:
        return dg.MetadataValue.text("no rows")
    texts = descriptions or {}
    names = [name for name in texts if name in rows[0]] + [name for name in rows[0] if name not in texts]
    records = [dg.TableRecord({str(name): _cell(row.get(name)) for name in names}) for row in rows]
    columns = [dg.TableColumn(str(name), _column_type(rows[0][name]), texts.get(str(name))) for name in names]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def _column_type(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return "string"


def prose(markdown: str) -> dg.MetadataValue:
    """Sentences on the asset's page. A long word in them, as the name of a model, has a break."""
    return dg.MetadataValue.md(with_breaks(markdown, "  \n"))


def sentences(name: str, texts: Sequence[str]) -> dict[str, dg.MarkdownMetadataValue]:
    """A list of sentences on the asset's page: the entry `name`, and `more_` with those that need a click."""
    if not texts:
        return {}
    items = [with_breaks(f"- {text}", _BREAK_IN_A_LIST) for text in texts]
    count = _shown_items(items)
    more = {f"more_{name}": behind_a_click("\n".join(f"- {text}" for text in texts[count:]))} if texts[count:] else {}
    return {name: dg.MetadataValue.md("\n".join(items[:count])), **more}


def _shown_items(items: Sequence[str]) -> int:
    """Return the number of items of a list that the page shows without a click."""
    ends = itertools.accumulate(len(item) + 1 for item in items)
    return max(1, sum(end - 1 <= SHOWN_CHARACTERS for end in ends))


def _column_schema(declared: FinishedTable | Sequence[tuple[str, str, str]]) -> dg.TableSchema | None:
    """Return Dagster's schema of a table if `dagster.columns` asks for it; else None.

    Dagster shows it above all other metadata. Without it, the page opens with example rows, whose *Show schema* has the
    descriptions. A finished table's has what its pandera schema demands.
    """
    if not dagster_settings().columns:
        return None
    if not isinstance(declared, FinishedTable):
        return dg.TableSchema(columns=[dg.TableColumn(*column) for column in declared])
    from ft_pipeline.tables.table_schemas import schema  # pandera takes a second to load

    checked = schema(declared)
    columns = [
        dg.TableColumn(
            column.name,
            type_name(column.arrow_type),
            column.description,
            dg.TableColumnConstraints(
                nullable=column.nullable,
                unique=declared.unique == (column.name,),
                other=[check.name for check in checked.columns[column.name].checks],
            ),
        )
        for column in declared.columns
    ]
    of_rows = dg.TableConstraints(other=[check.name for check in checked.checks])
    return dg.TableSchema(columns=columns, constraints=of_rows)


def _column_lineage(lineage: Lineage) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key(asset), name) for asset, name in sources]
            for column, sources in lineage.sources.items()
        }
    )


def _cell(value: Any) -> str | int | float | bool:
    plain = _clean(value) if not isinstance(value, (dict, list)) and value is not None else value
    if isinstance(plain, float):
        return round(plain, 4)
    if isinstance(plain, (int, bool)):
        return plain
    text = "" if plain is None else _turns(plain) or str(plain)
    return text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + "…"


def _turns(value: Any) -> str:
    """Return the turns of a conversation as a reader wants them: who says what; "" for any other value."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) and "role" in turn for turn in value):
        return ""
    return "\n".join(f"{turn['role']}: {turn.get('content') or turn.get('tool_calls') or ''}" for turn in value)


def artifact_metadata(
    artifact: Artifact, index: ArtifactIndex, assets: Mapping[str, bool], experiment: str | None
) -> dict[str, Any]:
    """Return what every asset's page shows last: the artifact's inputs, audit command, manifest and fingerprint.

    assets: asset name → whether it has a partition per experiment.
    """
    return {
        **_inputs(artifact, index, assets, experiment),
        "audit": f"ft audit {artifact.fingerprint[:SHOWN_DIGITS]}",
        "manifest": behind_a_click(str(artifact.path / "manifest.json")),
        "manifest_sha256": behind_a_click(artifact.manifest_sha256),
        "fingerprint": behind_a_click(artifact.fingerprint),
    }


def _inputs(
    artifact: Artifact, index: ArtifactIndex, assets: Mapping[str, bool], experiment: str | None
) -> dict[str, dg.MetadataValue]:
    """Return the entry `inputs`, with a link to the asset of each, and `all_inputs` with the manifests, after a click.

    An input that belongs to no asset (the model of an earlier phase) has no page, so it is named without a link.
    """
    if not artifact.inputs:
        return {"inputs": dg.MetadataValue.text("none: the user's files, or settings")}
    recorded = artifact.manifest.get("input_manifests") or {}
    items, records = [], []
    for name, (kind, fingerprint) in artifact.inputs.items():
        node = index.find(kind, fingerprint, recorded.get(name))
        manifest = f"{node.path.relative_to(index.root).as_posix()}/manifest.json" if node.path else "not in the store"
        partition = f"?partition={quote(experiment)}" if experiment and assets.get(kind) else ""
        asset = f"[{kind}](/assets/{quote(kind)}{partition})" if kind in assets else kind
        known_as = "" if name == kind else f"{with_breaks(name, _BREAK_IN_A_LIST)}: "
        items.append(f"- {known_as}{asset} `{fingerprint[:SHOWN_DIGITS]}`")
        records.append({"input": name, "asset": kind, "fingerprint": fingerprint, "manifest": manifest})
    return {
        "inputs": dg.MetadataValue.md("\n".join(items[: _shown_items(items)])),
        "all_inputs": json_behind_a_click(records),
    }
