"""Models that used a row: for erasure requests, and to find what must be trained again without it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.rows import SPLITS, read_rows
from ft_pipeline.errors import UserError

MODELS = ("adapter", "merged_model")
LEARNED = ("trained on it", "selected its checkpoint with it")
"""How a model depends on a row of each split in SPLITS. Without the row, the model would be a different one."""
SCORED = ("prompt_baseline", "scores")


@dataclass(frozen=True)
class Use:
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
    ids: list[str]
    """Ids of the row's contents, oldest first. There are several if the row changed between snapshots."""
    uses: list[Use] = field(default_factory=list)
    retrain: list[str] = field(default_factory=list)
    """Experiments whose current model was trained on it or selected its checkpoint with it. A run retrains them."""
    champion: bool = False
    """Whether the current champion is one of those models."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_origin(text: str) -> tuple[str, str, int]:
    """`alpaca/support_01.jsonl:12` → (table, file, row). UserError if the text has another form."""
    place, _, number = text.rpartition(":")
    table, _, file = place.partition("/")
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
        ids = _ids_at(index, *parse_origin(row))
    if not ids:
        raise UserError(f"No table in the store contains {row}{_why_not(index, row)}, so no model used it.")
    return uses_of(index, row, ids)


def uses_of(index: ArtifactIndex, row: str, ids: list[str]) -> RowUsage:
    """Return the artifacts that used rows with these ids."""
    wanted = set(ids)
    uses: dict[Any, Use] = {}
    for node in index.all("training_data"):
        for split, how in zip(SPLITS, LEARNED, strict=True):
            if wanted & {token_row["id"] for token_row in read_rows(node, f"{split}.parquet", ["id"])}:
                for used in [node, *_descendants(index, node, MODELS)]:
                    uses.setdefault(used.path, _use(index, used, "made from it" if used is node else how))
    for node in index.all("conversations"):
        conversations = read_rows(node, "rows.parquet", ["id", "split"])
        tested = {conversation["id"] for conversation in conversations if conversation["split"] == "test"}
        for used in _descendants(index, node, SCORED, transitive=False) if wanted & tested else []:
            uses.setdefault(used.path, _use(index, used, "was scored on it"))
    all_uses = list(uses.values())
    made = [use for use in all_uses if use.how in LEARNED]
    retrain = sorted({use.experiment for use in made if use.present and use.experiment})
    last = max((record.sequence for record in index.champion_records), default=None)
    return RowUsage(row, ids, all_uses, retrain, any(last in use.champion_records for use in made))


def _ids_at(index: ArtifactIndex, table: str, file: str, row: int) -> list[str]:
    """Ids of all rows that were ever at a place, in its own table and in tables made from it.

    A distilled row has the place of its prompt.
    """
    ids: dict[str, None] = {}
    for kind in (table, "conversations", "distilled"):
        for node in index.all(kind):
            for table_row in read_rows(node, "rows.parquet", ["id", "table", "file", "row"]):
                if (table_row.get("table") or kind, table_row["file"], table_row["row"]) == (table, file, row):
                    ids[table_row["id"]] = None
    return list(ids)


def _why_not(index: ArtifactIndex, row: str) -> str:
    """Why the newest table that read the row set it aside, as part of a message; empty if none did."""
    if ":" not in row:
        return ""
    table, file, number = parse_origin(row)
    for node in reversed(index.all(table)):
        for aside in read_rows(node, "set_aside.parquet", ["file", "row", "code"]):
            if (aside["file"], aside["row"]) == (file, number):
                return f" as an accepted row (it was set aside as {aside['code']}; see `ft audit {table} --left-out`)"
    return ""


def derived_ids(index: ArtifactIndex, ids: Collection[str]) -> list[str]:
    """Ids of the distilled rows whose prompts are the rows with these ids."""
    places = {
        (prompt["file"], prompt["row"])
        for node in index.all("unlabelled")
        for prompt in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if prompt["id"] in ids
    }
    derived = {
        answer["id"]: None
        for node in index.all("distilled")
        for answer in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if (answer["file"], answer["row"]) in places
    }
    return [identity for identity in derived if identity not in ids]


def _descendants(
    index: ArtifactIndex, node: ArtifactNode, kinds: Collection[str], *, transitive: bool = True
) -> list[ArtifactNode]:
    """The artifacts of these kinds that were made from `node`, or (`transitive`) from one of them."""
    descendants: dict[Any, ArtifactNode] = {}
    queue = [node]
    while queue:
        here = queue.pop(0)
        for child in index.users.get((here.kind, here.fingerprint), []):
            if child.kind in kinds and child.path not in descendants:
                descendants[child.path] = child
                queue += [child] if transitive else []
    return list(descendants.values())


def _use(index: ArtifactIndex, node: ArtifactNode, how: str) -> Use:
    identity = (node.kind, node.fingerprint)
    pointers = [pointer for pointer in index.pointers if (pointer.kind, pointer.fingerprint) == identity]
    experiment = node.run.get("experiment") or next((pointer.partition for pointer in pointers), None)
    records = [record for record in index.champion_records if node.fingerprint in record.fingerprints.values()]
    released = tuple(record.sequence for record in records)
    created = str(node.manifest.get("created", ""))
    return Use(node.key, node.fingerprint, created, experiment, how, bool(pointers), released)
