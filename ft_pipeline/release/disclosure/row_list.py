"""The list of the rows that a model learned from, as salted hashes: whoever has a row can look it up, and nobody can
read the others.

A row is known by its id, the SHA-256 of what it says (tables/formats/row_ids.py). The salt is a hash of the model, so
that it is the same each time the model is exported, and lists of two models have no leaf in common. It is in the list:
a guessed row can be confirmed, and is meant to be.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.text_redaction import PACKED_SOURCES
from ft_pipeline.tables.excluded_rows import MARKER_START

TRAINED_SPLITS = ("train", "validation")
"""Splits of the training data. The validation rows selected the checkpoint, so the model learned from them, too."""
_SALT_LABEL = b"ft-pipeline training rows, version 1\n"
_HEADER = """\
# ft-pipeline training rows, version 1
# salt: {salt}
# leaves: {leaves}
# withheld: {withheld}
# root: {root}
#
# Each line below is a leaf: SHA-256(0x00 || salt || row id). A row id is the SHA-256 of the row as JSON: UTF-8, sorted
# keys, no white space. README.md computes it for each kind of row. The leaves are in ascending order, each once.
# The root is the Merkle tree hash of RFC 6962 over them; a node is SHA-256(0x01 || left || right).
# Withheld are rows that the model learned from and that were erased since: their leaves are not in the list.
"""


@dataclass(frozen=True)
class RowList:
    """The rows that a model learned from, over all of its training phases."""

    salt: bytes
    leaves: Sequence[bytes]
    """In ascending order, without repetition."""
    withheld: int
    """Rows that were erased since."""

    @cached_property
    def root(self) -> str:
        """The Merkle root (hex)."""
        return tree_root(self.leaves).hex()

    def render(self) -> str:
        """Return the content of training_rows.txt."""
        header = _HEADER.format(salt=self.salt.hex(), leaves=len(self.leaves), withheld=self.withheld, root=self.root)
        return header + "".join(f"{leaf.hex()}\n" for leaf in self.leaves)


def row_leaf(salt: bytes, row_id: str) -> bytes:
    """Return the leaf of a row. row_id: 64 hex digits."""
    return leaf_hash(salt + bytes.fromhex(row_id))


def list_of_rows(store: ArtifactStore, adapters: Iterable[Artifact], model_fingerprint: str) -> RowList:
    """Return the list of a model's rows. adapters: those of all its training phases."""
    row_ids = _ids_of_phases(store, adapters)
    salt = hashlib.sha256(_SALT_LABEL + bytes.fromhex(model_fingerprint)).digest()
    erased = _erased_in(row_ids)
    leaves = sorted(row_leaf(salt, identity) for identity in row_ids - erased)
    return RowList(salt, leaves, len(erased))


def count_erased(store: ArtifactStore, adapters: Iterable[Artifact]) -> int:
    """Return how many rows that these adapters learned from were erased since."""
    return len(_erased_in(_ids_of_phases(store, adapters)))


def _erased_in(row_ids: set[str]) -> set[str]:
    return {identity for identity in row_ids if identity.startswith(MARKER_START)}


def _ids_of_phases(store: ArtifactStore, adapters: Iterable[Artifact]) -> set[str]:
    row_ids: set[str] = set()
    for adapter in adapters:
        row_ids |= _ids_of_phase(store, store.require(*adapter.inputs["training_data"]))
    return row_ids


def _ids_of_phase(store: ArtifactStore, training_data: Artifact) -> set[str]:
    """Return the ids of the rows that one phase learned from. An erased row has a marker in the place of its id."""
    row_ids: set[str] = set()
    has_blocks = False
    for split in TRAINED_SPLITS:
        path = training_data.path / f"{split}.parquet"
        if path.is_file():
            table = pq.read_table(path, columns=["id", "source"])
            packed = pc.is_in(table["source"], pc.cast(sorted(PACKED_SOURCES), "string"))
            has_blocks = has_blocks or bool(pc.any(packed).as_py())
            row_ids.update(table.filter(pc.invert(packed))["id"].to_pylist())
    return row_ids | (_ids_of_texts(store, training_data) if has_blocks else set())


def _ids_of_texts(store: ArtifactStore, training_data: Artifact) -> set[str]:
    """Return the ids of the raw texts that blocks of tokens were cut from: blocks have no ids of rows.

    If only a part of the texts was drawn (`data.share`, a replay weight below 1), all of them are in the list.
    """
    entries = training_data.document("audit.json")["left_out"]
    left_out = {(entry["file"], entry["row"]) for entry in entries if entry.get("table", "text") == "text"}
    texts = pq.read_table(
        store.require(*training_data.inputs["text"]).path / "rows.parquet", columns=["id", "file", "row"]
    )
    return {text["id"] for text in texts.to_pylist() if (text["file"], text["row"]) not in left_out}


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of an entry: SHA-256(0x00 || content)."""
    return hashlib.sha256(b"\x00" + content).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of entries, in their order. A node is SHA-256(0x01 || left || right).

    Without entries it is the SHA-256 of nothing. Pairs are joined level by level. A last node without a partner moves
    up unchanged, which gives the tree of the RFC: its left part always has a power of two of leaves.
    """
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        joined = [
            hashlib.sha256(b"\x01" + level[position] + level[position + 1]).digest()
            for position in range(0, len(level) - 1, 2)
        ]
        level = joined + level[len(joined) * 2 :]
    return level[0]
