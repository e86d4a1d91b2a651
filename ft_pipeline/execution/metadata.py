"""Metadata for the UI: values that Dagster's event log accepts, and where an artifact came from.

A numpy scalar in the event log would make the step fail after its work is done.
"""

import base64
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from ft_pipeline.audit.artifact_index import SHOWN_DIGITS, ArtifactIndex
from ft_pipeline.execution.dagster_names import dagster_settings
from ft_pipeline.small_plots import SHOWN_CHARACTERS
from ft_pipeline.store.artifacts import Artifact

PREVIEW_CHARACTERS = 300
"""Maximum characters of a cell in a table."""
LINE_CHARACTERS = 44
"""Characters of a line of a list for which the UI has room in a window of 1,280 pixels, beside the longest key."""
NOT_RECORDED = "not_recorded"
"""The entry that says why others are missing."""
_BEGINS_A_BLOCK = re.compile(r"^( *)(\d*)([.)>+*#-])(?= |$)")
"""What makes a list, a quotation or a heading of a line."""


def clean_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with numpy scalars as Python scalars, mappings and lists as JSON, and without None.

    A float that is not finite becomes text.
    """
    return {key: _clean(value) for key, value in values.items() if value is not None}


def metadata_of_finished(
    parts: Sequence[Callable[[], Mapping[str, Any]]], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the metadata that describes a stored artifact: that of all parts. A later part wins.

    An error in a part does not raise, because the work is done, and doing it again would end in the same way.
    """
    metadata: dict[str, Any] = {}
    errors = []
    for part in parts:
        try:
            metadata |= clean_metadata(part())
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            warn(f"some of its metadata was not recorded: {errors[-1]}. The result is complete.")
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
    """A table in the asset's page, with cells cut to PREVIEW_CHARACTERS. Its columns are those of the first row.

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
    """Sentences on the asset's page, which are read without scrolling to the side.

    The long values below them (a path, hashes) make the page wider than the window, and text fills that width. So
    each line gets a break of its own.
    """
    return dg.MetadataValue.md(_in_lines(markdown))


def sentences(name: str, texts: Sequence[str]) -> dict[str, dg.MarkdownMetadataValue]:
    """A list of sentences on the asset's page: the entry `name`, and `more_` with those that need a click."""
    items = [_in_lines(f"- {text}") for text in texts]
    while len(shown := "\n".join(items)) > SHOWN_CHARACTERS and len(items) > 1:
        items.pop()
    if not items:
        return {}
    rest = "\n".join(f"- {text}" for text in texts[len(items) :])
    more = {f"more_{name}": dg.MetadataValue.md(rest)} if rest else {}
    return {name: dg.MetadataValue.md(shown), **more}


def _in_lines(markdown: str) -> str:
    """Return a text whose lines are at most as long as the page is wide. Two spaces at the end of one keep its break.

    What would begin a list or a quotation at the start of a line is escaped: the text has it in the middle.
    """
    lines = []
    for line in markdown.split("\n"):
        indent = "  " if line.startswith("- ") else ""
        parts = textwrap.wrap(
            line, LINE_CHARACTERS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        begin, *rest = parts or [""]
        lines.append("  \n".join([begin, *(_BEGINS_A_BLOCK.sub(r"\1\2\\\3", part) for part in rest)]))
    return "\n".join(lines)


def table_columns(columns: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Return Dagster's schema of a table, from (name, type, description), if `dagster.columns` asks for it.

    Dagster shows it above all other metadata. Without it, the page opens with example rows, whose *Show schema* has the
    descriptions.
    """
    if not dagster_settings().columns:
        return {}
    return {"dagster/column_schema": dg.TableSchema(columns=[dg.TableColumn(*column) for column in columns])}


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
    An input that belongs to no asset (the model of an earlier phase) has no page, so it is named without a link.
    """
    return {
        "inputs": dg.MetadataValue.md(_input_table(artifact, index, assets, experiment)),
        "audit": f"ft audit {artifact.fingerprint[:SHOWN_DIGITS]}",
        "manifest": dg.MetadataValue.path(str(artifact.path / "manifest.json")),
        "manifest_sha256": artifact.manifest_sha256,
        "fingerprint": artifact.fingerprint,
    }


def _input_table(artifact: Artifact, index: ArtifactIndex, assets: Mapping[str, bool], experiment: str | None) -> str:
    recorded = artifact.manifest.get("input_manifests") or {}
    lines = ["| input | asset | fingerprint | manifest |", "| --- | --- | --- | --- |"]
    for name, (kind, fingerprint) in artifact.inputs.items():
        node = index.find(kind, fingerprint, recorded.get(name))
        folder = node.path.relative_to(index.root).as_posix() if node.path else "not in the store"
        partition = f"?partition={quote(experiment)}" if experiment and assets.get(kind) else ""
        asset = f"[{kind}](/assets/{quote(kind)}{partition})" if kind in assets else kind
        lines.append(f"| {name} | {asset} | `{fingerprint[:SHOWN_DIGITS]}` | `{folder}/manifest.json` |")
    return "\n".join(lines) if artifact.inputs else "none: the user's files, or settings"
