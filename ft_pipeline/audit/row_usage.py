"""Models that used a row: for erasure requests, and to find what must be trained again without it."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.rows import SPLITS, read_rows
from ft_pipeline.errors import UserError

MODEL_KINDS = ("adapter", "merged_model")
SCORE_KINDS = ("prompt_baseline", "scores")
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
    uses = [*_training_uses(index, row_ids), *_scoring_uses(index, row_ids)]
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
            if row_ids & {token_row["id"] for token_row in read_rows(node, f"{split}.parquet", ["id"])}:
                yield node, _use(index, node, MADE_FROM_IT)
                for model in _descendants(index, node, MODEL_KINDS):
                    yield model, _use(index, model, how)


def _scoring_uses(index: ArtifactIndex, row_ids: set[str]) -> Iterator[tuple[ArtifactNode, ArtifactUse]]:
    """Yield the scores on conversations whose test split contains one of the rows."""
    for node in index.all("conversations"):
        conversations = read_rows(node, "rows.parquet", ["id", "split"])
        tested = {conversation["id"] for conversation in conversations if conversation["split"] == "test"}
        if row_ids & tested:
            for scores in _descendants(index, node, SCORE_KINDS, transitive=False):
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
    prompt_origins = {
        (prompt["file"], prompt["row"])
        for node in index.all("unlabelled")
        for prompt in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if prompt["id"] in ids
    }
    derived = {
        answer["id"]: None
        for node in index.all("distilled")
        for answer in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if (answer["file"], answer["row"]) in prompt_origins
    }
    return [identity for identity in derived if identity not in ids]


def _descendants(
    index: ArtifactIndex, node: ArtifactNode, kinds: Collection[str], *, transitive: bool = True
) -> list[ArtifactNode]:
    """Return the artifacts of these kinds that were made from `node`, or (`transitive`) from one of them."""
    descendants: dict[Any, ArtifactNode] = {}
    queue = [node]
    while queue:
        parent = queue.pop(0)
        for child in index.consumers.get((parent.kind, parent.fingerprint), []):
            if child.kind in kinds and child.path not in descendants:
                descendants[child.path] = child
                queue += [child] if transitive else []
    return list(descendants.values())


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
