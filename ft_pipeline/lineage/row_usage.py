"""Models that used a row: for erasure requests, and to find what must be trained again without it."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.store.text_redaction import PACKED_SOURCES

SPLITS = ("train", "validation")
"""Splits of the training data."""
MODEL_KINDS = ("adapter", "merged_model", "gguf")
SCORE_KINDS = ("prompt_baseline", "scores", "gguf_scores", "rival_scores", "calibrated_scores")
LEARNED_FROM_IT = ("trained on it", "selected its checkpoint with it")
"""How a model depends on a row of each split in SPLITS. Without the row, the model would be a different one."""
SCORED_ON_IT = "was scored on it"
MADE_FROM_IT = "made from it"
"""How training data depends on a row."""


@dataclass(frozen=True)
class ArtifactUse:
    """One artifact that used a row."""

    key: str
    fingerprint: str
    created: str
    experiment: str | None
    how: str
    """`trained on it`, `selected its checkpoint with it`, `was scored on it`, or `made from it`."""
    present: bool
    """Whether it is the latest materialization of its asset."""
    champion_records: tuple[int, ...] = ()
    """Numbers of the champion records that released it."""


@dataclass(frozen=True)
class RowUsage:
    """All artifacts that used a row."""

    row: str
    """The row as the caller named it."""
    ids: list[str]
    """Ids of the row's contents, oldest first. There are several if the row changed between snapshots."""
    uses: list[ArtifactUse] = field(default_factory=list)
    retrain: list[str] = field(default_factory=list)
    """Experiments whose current model was trained on it or selected its checkpoint with it. A run retrains them."""
    champion: bool = False
    """Whether the current champion is one of those models."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_origin(text: str) -> tuple[str, str, int]:
    """Return (table, file, row) of an origin such as `alpaca/support_01.jsonl:12`. UserError if it has another form."""
    path, _, number = text.rpartition(":")
    table, _, file = path.partition("/")
    if not (table and file and number.isdigit() and int(number) > 0):
        raise UserError(f"{text!r} is not a row. Use FORMAT/FILE:ROW, e.g. alpaca/support_01.jsonl:12, or a row's id.")
    return table, file, int(number)


def models_that_used_row(index: ArtifactIndex, row: str) -> RowUsage:
    """Return every artifact of the store that used a row.

    `row` is FORMAT/FILE:ROW, as it is now or was in an older snapshot, or a row's id (64 hex digits). UserError if no
    table of the store ever contained it.
    """
    if len(row) == 64 and all(digit in "0123456789abcdef" for digit in row):
        ids = [row, *derived_ids(index, {row})]
    else:
        ids = _ids_with_origin(index, *parse_origin(row))
    if not ids:
        raise UserError(f"No table in the store contains {row}{_why_not_accepted(index, row)}, so no model used it.")
    return usage_of(index, row, ids)


def usage_of(index: ArtifactIndex, row: str, ids: list[str]) -> RowUsage:
    """Return the artifacts that used rows with these ids."""
    row_ids = set(ids)
    uses = [*_training_uses(index, row_ids), *_classifier_uses(index, row_ids), *_scoring_uses(index, row_ids)]
    first_uses: dict[Any, ArtifactUse] = {}
    for node, use in uses:
        first_uses.setdefault(node.path, use)
    learned = [use for use in first_uses.values() if use.how in LEARNED_FROM_IT]
    retrain = sorted({use.experiment for use in learned if use.present and use.experiment})
    last_record = max((record.sequence for record in index.champion_records), default=None)
    is_champion = any(last_record in use.champion_records for use in learned)
    return RowUsage(row, ids, list(first_uses.values()), retrain, is_champion)


def _training_uses(index: ArtifactIndex, row_ids: set[str]) -> Iterator[tuple[ArtifactNode, ArtifactUse]]:
    """Yield the training data that contains one of the rows, and the models that were made from it."""
    for node in index.all("training_data"):
        for split, how in zip(SPLITS, LEARNED_FROM_IT, strict=True):
            if _contains(node, f"{split}.parquet", row_ids) or _packs(index, node, f"{split}.parquet", row_ids):
                yield node, _use(index, node, MADE_FROM_IT)
                for model in descendants(index, node, MODEL_KINDS):
                    yield model, _use(index, model, how)


def _classifier_uses(index: ArtifactIndex, row_ids: set[str]) -> Iterator[tuple[ArtifactNode, ArtifactUse]]:
    """Yield the classifiers that learned from one of the rows, or whose strength was chosen with it."""
    for node in index.all("conversations"):
        splits = {row["split"] for row in rows_with(_file(node, "rows.parquet"), "id", row_ids)}
        for how in (how for split, how in zip(SPLITS, LEARNED_FROM_IT, strict=True) if split in splits):
            for model in descendants(index, node, (WORD_MODEL,), transitive=False):
                if not model.manifest.get("summary", {}).get("left_out"):
                    yield model, _use(index, model, how)


def _scoring_uses(index: ArtifactIndex, row_ids: set[str]) -> Iterator[tuple[ArtifactNode, ArtifactUse]]:
    """Yield the scores on conversations whose test split contains one of the rows."""
    for node in index.all("conversations"):
        if any(row["split"] == "test" for row in rows_with(_file(node, "rows.parquet"), "id", row_ids)):
            for scores in descendants(index, node, SCORE_KINDS, transitive=False):
                yield scores, _use(index, scores, SCORED_ON_IT)


def _ids_with_origin(index: ArtifactIndex, table: str, file: str, row: int) -> list[str]:
    """Return the ids of all rows that ever had this origin, in the table itself and in tables made from it.

    A distilled row has the origin of its prompt.
    """
    ids: dict[str, None] = {}
    for kind in (table, "conversations", "distilled"):
        for node in index.all(kind):
            for table_row in read_rows(node, "rows.parquet", ["id", "table", "file", "row"]):
                if (table_row.get("table") or kind, table_row["file"], table_row["row"]) == (table, file, row):
                    ids[table_row["id"]] = None
    return list(ids)


def _why_not_accepted(index: ArtifactIndex, row: str) -> str:
    """Return why the newest table that read the row set it aside, as part of a message; empty if none did."""
    if ":" not in row:
        return ""
    table, file, number = parse_origin(row)
    for node in reversed(index.all(table)):
        for set_aside in read_rows(node, "set_aside.parquet", ["file", "row", "code"]):
            if (set_aside["file"], set_aside["row"]) == (file, number):
                code = set_aside["code"]
                return f" as an accepted row (it was set aside as {code}; see `ft audit {table} --left-out`)"
    return ""


def derived_ids(index: ArtifactIndex, ids: Collection[str]) -> list[str]:
    """Return the ids of the distilled rows whose prompts are the rows with these ids."""
    derived: dict[str, None] = {}
    for answers in index.all("teacher_answers"):
        prompts = rows_with(_file(answers, "answers.parquet"), "id", ids)
        origins = {(prompt["file"], prompt["row"]) for prompt in prompts}
        for node in descendants(index, answers, ("distilled",), transitive=False) if origins else ():
            rows = rows_with(_file(node, "rows.parquet"), "file", {file for file, _ in origins})
            derived |= {row["id"]: None for row in rows if (row["file"], row["row"]) in origins}
    return [identity for identity in derived if identity not in ids]


def _contains(node: ArtifactNode, name: str, ids: Collection[str]) -> bool:
    return bool(rows_with(_file(node, name), "id", ids))


def _packs(index: ArtifactIndex, node: ArtifactNode, name: str, ids: Collection[str]) -> bool:
    """Return whether a split of the training data consists of blocks of texts (no block has a row's id), and one of
    these rows is among the texts."""
    texts = [index.find(*reference) for reference in node.inputs.values() if reference[0] == "text"]
    return any(_contains(table, "rows.parquet", ids) for table in texts) and bool(
        rows_with(_file(node, name), "source", PACKED_SOURCES)
    )


def _file(node: ArtifactNode, name: str) -> Path:
    return (node.path or Path()) / name


def rows_with(path: Path, column: str, values: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file whose `column` is one of `values`, without their lists.

    The result is empty if the file is missing, a link or damaged.
    """
    if not values or path.is_symlink() or not path.is_file():
        return []
    try:
        schema = pq.read_schema(path)
        columns = [name for name in schema.names if not pa.types.is_nested(schema.field(name).type)]
        return pq.read_table(path, columns=columns, filters=[(column, "in", set(values))]).to_pylist()
    except (OSError, ValueError, pa.ArrowException):
        return []


def descendants(
    index: ArtifactIndex, node: ArtifactNode, kinds: Collection[str] = (), *, transitive: bool = True
) -> list[ArtifactNode]:
    """Return the artifacts (of these kinds) that were made from `node`, or (`transitive`) from one of them."""
    found: dict[Any, ArtifactNode] = {}
    queue = [node]
    while queue:
        parent = queue.pop(0)
        for child in index.consumers.get((parent.kind, parent.fingerprint), []):
            if (not kinds or child.kind in kinds) and child.path not in found:
                found[child.path] = child
                queue += [child] if transitive else []
    return list(found.values())


def _use(index: ArtifactIndex, node: ArtifactNode, how: str) -> ArtifactUse:
    """Return the use of a row by an artifact, with the experiment and the champion records of the artifact."""
    reference = (node.kind, node.fingerprint)
    pointers = [pointer for pointer in index.pointers if (pointer.kind, pointer.fingerprint) == reference]
    experiment = node.run.get("experiment") or next((pointer.partition for pointer in pointers), None)
    records = [record for record in index.champion_records if node.fingerprint in record.fingerprints.values()]
    return ArtifactUse(
        key=node.key,
        fingerprint=node.fingerprint,
        created=str(node.manifest.get("created", "")),
        experiment=experiment,
        how=how,
        present=bool(pointers),
        champion_records=tuple(record.sequence for record in records),
    )


def read_rows(node: ArtifactNode, name: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of one Parquet file of an artifact, with those of `columns` that it has.

    The result is empty if the file is missing, a link or damaged.
    """
    path = node.path / name if node.path else Path()
    if path.is_symlink() or not path.is_file():
        return []
    try:
        if columns is not None:
            present = pq.read_schema(path).names
            columns = [column for column in columns if column in present]
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError):  # damaged; `--verify` reports it
        return []
