"""Which models saw a row: for deletion requests, and what must be trained anew without it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.rows import SPLITS, read_rows
from ft_pipeline.errors import UserError

MODELS = ("adapter", "merged_model")
LEARNED = ("trained on it", "chose its checkpoint by it")
"""How a model depends on a row of each of SPLITS; without the row, it is another model."""
SCORED = ("prompt_baseline", "scores")


@dataclass(frozen=True)
class Use:
    """One artifact that a row went into."""

    key: str
    fingerprint: str
    created: str
    experiment: str | None
    how: str
    """`trained on it`, `chose its checkpoint by it`, `was scored on it`, or `made from it`."""
    present: bool
    """Whether it is what its asset was last materialized to."""
    champion_records: tuple[int, ...] = ()
    """Records that released it."""


@dataclass(frozen=True)
class RowUsage:
    """Where a row went."""

    row: str
    ids: list[str]
    """Identities of the row's content, oldest first; more than one where the file's row changed between snapshots."""
    uses: list[Use] = field(default_factory=list)
    retrain: list[str] = field(default_factory=list)
    """Experiments whose present model was trained on it or chose its checkpoint by it; a run trains them anew."""
    champion: bool = False
    """Whether the present champion is one of those models."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_origin(text: str) -> tuple[str, str, int]:
    """`alpaca/support_01.jsonl:12` → (table, file, row). UserError where it is not of that form."""
    place, _, number = text.rpartition(":")
    table, _, file = place.partition("/")
    if not (table and file and number.isdigit() and int(number) > 0):
        raise UserError(f"{text!r} is no row; write FORMAT/FILE:ROW, e.g. alpaca/support_01.jsonl:12, or a row's id")
    return table, file, int(number)


def models_that_used_row(library: ArtifactIndex, row: str) -> RowUsage:
    """Every artifact of the store that a row went into. `row`: FORMAT/FILE:ROW as it is or was, or a row's id (64 hex).

    UserError where no table of the store ever held it.
    """
    if len(row) == 64 and all(digit in "0123456789abcdef" for digit in row):
        ids = [row, *derived_ids(library, {row})]
    else:
        ids = _ids_at(library, *parse_origin(row))
    if not ids:
        raise UserError(f"no table in the store holds {row}{_why_not(library, row)}, so no model saw it")
    return uses_of(library, row, ids)


def uses_of(library: ArtifactIndex, row: str, ids: list[str]) -> RowUsage:
    """The artifacts that rows of these ids went into."""
    wanted = set(ids)
    uses: dict[Any, Use] = {}
    for node in library.all("training_data"):
        for split, how in zip(SPLITS, LEARNED, strict=True):
            if wanted & {each["id"] for each in read_rows(node, f"{split}.parquet", ["id"])}:
                for used in [node, *_descendants(library, node, MODELS)]:
                    uses.setdefault(used.path, _use(library, used, "made from it" if used is node else how))
    for node in library.all("conversations"):
        tested = {each["id"] for each in read_rows(node, "rows.parquet", ["id", "split"]) if each["split"] == "test"}
        for used in _descendants(library, node, SCORED, transitive=False) if wanted & tested else []:
            uses.setdefault(used.path, _use(library, used, "was scored on it"))
    found = list(uses.values())
    made = [use for use in found if use.how in LEARNED]
    retrain = sorted({use.experiment for use in made if use.present and use.experiment})
    last = max((record.sequence for record in library.champion_records), default=None)
    return RowUsage(row, ids, found, retrain, any(last in use.champion_records for use in made))


def _ids_at(library: ArtifactIndex, table: str, file: str, row: int) -> list[str]:
    """Ids of what ever stood at a place, in its own table and in those made of it (a distilled row has its prompt's
    place)."""
    found: dict[str, None] = {}
    for kind in (table, "conversations", "distilled"):
        for node in library.all(kind):
            for each in read_rows(node, "rows.parquet", ["id", "table", "file", "row"]):
                if (each.get("table") or kind, each["file"], each["row"]) == (table, file, row):
                    found[each["id"]] = None
    return list(found)


def _why_not(library: ArtifactIndex, row: str) -> str:
    """How the newest snapshot that holds a place set its row aside; empty where none did."""
    if ":" not in row:
        return ""
    table, file, number = parse_origin(row)
    for node in reversed(library.all(table)):
        for each in read_rows(node, "set_aside.parquet", ["file", "row", "code"]):
            if (each["file"], each["row"]) == (file, number):
                return f" as accepted (it was set aside as {each['code']}; see ft audit {table} --left-out)"
    return ""


def derived_ids(library: ArtifactIndex, ids: Collection[str]) -> list[str]:
    """The ids of the distilled rows whose prompts these rows are."""
    places = {
        (each["file"], each["row"])
        for node in library.all("unlabelled")
        for each in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if each["id"] in ids
    }
    derived = {
        each["id"]: None
        for node in library.all("distilled")
        for each in read_rows(node, "rows.parquet", ["id", "file", "row"])
        if (each["file"], each["row"]) in places
    }
    return [each for each in derived if each not in ids]


def _descendants(
    library: ArtifactIndex, node: ArtifactNode, kinds: Collection[str], *, transitive: bool = True
) -> list[ArtifactNode]:
    """The artifacts of these kinds that were made from `node`, or (`transitive`) from one of them."""
    found: dict[Any, ArtifactNode] = {}
    queue = [node]
    while queue:
        here = queue.pop(0)
        for each in library.users.get((here.kind, here.fingerprint), []):
            if each.kind in kinds and each.path not in found:
                found[each.path] = each
                queue += [each] if transitive else []
    return list(found.values())


def _use(library: ArtifactIndex, node: ArtifactNode, how: str) -> Use:
    pointers = [it for it in library.pointers if (it.kind, it.fingerprint) == (node.kind, node.fingerprint)]
    experiment = node.run.get("experiment") or next((it.partition for it in pointers), None)
    released = [it.sequence for it in library.champion_records if node.fingerprint in it.fingerprints.values()]
    created = str(node.manifest.get("created", ""))
    return Use(node.key, node.fingerprint, created, experiment, how, bool(pointers), tuple(released))
