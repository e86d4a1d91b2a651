"""Rows of a chain: rows that a model was trained on and their origins, rows left out, search for a sentence."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.audit.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.audit.chain import Chain, inputs_of
from ft_pipeline.tables.text_rules import normalise

ORIGIN = ("file", "row")
SPLITS = ("train", "validation")
NEAR = 0.6
"""Share of a sentence's 3-word phrases that a row must contain to count as near."""
SHINGLE_WORDS = 3


@dataclass(frozen=True)
class Trained:
    """One row that was given to a training step."""

    training_data: str
    """Fingerprint of the artifact."""
    split: str
    """`train`: trained on; `validation`: only used to measure the loss during training."""
    source: str
    """`human`, `distilled`, …"""
    id: str
    copies: int
    """Number of token rows made from it, because of its weight or because it was divided into parts."""
    table: str | None
    file: str | None
    row: int | None
    raw_sha256: str | None
    """SHA-256 of the raw file that contains it, as recorded in the snapshot."""

    @property
    def origin(self) -> str:
        return f"{self.table}/{self.file}:{self.row}" if self.file else "?"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "origin": self.origin}


@dataclass(frozen=True)
class LeftOut:
    """One row that was read and not used."""

    table: str
    file: str
    row: int
    code: str
    message: str
    by: str
    """Key of the artifact that set it aside."""


@dataclass(frozen=True)
class Match:
    """A row that contains a sentence, exactly or nearly."""

    how: str
    """`equal` (to a whole turn), `contained`, or `near`."""
    share: float
    """Share of the sentence's 3-word phrases that the row contains (0 to 1)."""
    use: str
    """`train`, `validation`, `test`, `not trained on`, or `set aside: CODE`."""
    origin: str
    text: str
    """The turn that matches best."""


def trained_rows(chain: Chain) -> list[Trained]:
    """Every row of every training step of the chain, in the order of the training data."""
    return [row for node in chain.of_kind("training_data") for row in _trained(chain.index, node)]


def _trained(index: ArtifactIndex, node: ArtifactNode) -> Iterator[Trained]:
    origins = origins_of(index, node)
    hashes = _raw_hashes(index, node)
    for split in SPLITS:
        counts: dict[tuple[str, str], int] = {}
        for row in read_rows(node, f"{split}.parquet", ["id", "source"]):
            counts[row["id"], row.get("source") or ""] = counts.get((row["id"], row.get("source") or ""), 0) + 1
        for (identity, source), copies in counts.items():
            table, file, number = origins.get(identity, (None, None, None))
            raw = hashes.get((table, file))
            yield Trained(node.fingerprint, split, source, identity, copies, table, file, number, raw)


def origins_of(index: ArtifactIndex, node: ArtifactNode) -> dict[str, tuple[str, str, int]]:
    """Row id → (table, file, row), from the tables that an artifact was made from."""
    origins = {}
    for _, source in inputs_of(index, node):
        for row in read_rows(source, "rows.parquet", ["id", "table", *ORIGIN]):
            origins[row["id"]] = (row.get("table") or source.kind, row["file"], row["row"])
    return origins


def left_out(chain: Chain) -> list[LeftOut]:
    """Every row that a table of the chain read and set aside, with its reason."""
    columns = ["table", *ORIGIN, "code", "message"]
    return [
        LeftOut(row.get("table") or node.kind, row["file"], row["row"], row["code"], row["message"], node.key)
        for node in chain.nodes
        for row in read_rows(node, "set_aside.parquet", columns)
    ]


def find_sentence(chain: Chain, sentence: str) -> list[Match]:
    """Return the rows of the chain that contain a sentence, best first: equal, contained in a turn, or near.

    Case, white space, Unicode form and punctuation are ignored. Held-out rows and rows that were set aside are searched
    too, so that an empty result means that no row contains the sentence.
    """
    wanted = words_of(sentence)
    phrases = _phrases(wanted)
    matches: dict[tuple[str, str], Match] = {}
    for use, origin, texts in _texts(chain):
        best = max((_fit(wanted, phrases, text) for text in texts), default=None, key=lambda fit: fit[:2])
        if best is not None and (best[0] or best[1] >= NEAR):
            how = ("near", "contained", "equal")[best[0]]
            match = Match(how, round(best[1], 3), use, origin, best[2])
            matches.setdefault((origin, match.text), match)  # the table nearest to the subject has the row's split
    order = {"equal": 0, "contained": 1, "near": 2}
    return sorted(matches.values(), key=lambda match: (order[match.how], -match.share, match.origin))


def _fit(wanted: str, phrases: set[str], text: str) -> tuple[int, float, str]:
    """(2 equal, 1 contained, 0 neither; share of the phrases; the text)."""
    here = words_of(text)
    share = len(phrases & _phrases(here)) / len(phrases) if phrases else 0.0
    return (2 if here == wanted else 1 if f" {wanted} " in f" {here} " else 0), share, text


def words_of(text: str) -> str:
    """The words of a text, normalized, without punctuation, with one space between them."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in normalise(text)).split())


def _phrases(text: str) -> set[str]:
    words = text.split()
    size = min(SHINGLE_WORDS, len(words))
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()


def _texts(chain: Chain) -> Iterator[tuple[str, str, list[str]]]:
    """(use, origin, texts) of every row of the chain's last tables, and of every row that was set aside."""
    trained = {row.id: row.split for row in trained_rows(chain)}
    last = {node.path: node for data in chain.of_kind("training_data") for _, node in chain.inputs_of(data)}
    nodes = list(last.values()) or list(chain.nodes)
    for node in nodes:
        for row in read_rows(node, "rows.parquet"):
            if {"id", *ORIGIN} <= row.keys():
                use = trained.get(row["id"]) or row.get("split") or "not trained on"
                yield use, f"{row.get('table') or node.kind}/{row['file']}:{row['row']}", texts_of(row)
    for node in chain.nodes:
        for row in read_rows(node, "set_aside.parquet"):
            table = row.get("table") or node.kind
            yield f"set aside: {row['code']}", f"{table}/{row['file']}:{row['row']}", [row["raw"] or ""]


def texts_of(row: dict[str, Any]) -> list[str]:
    """The texts of people and models in a row of any table."""
    texts = [row[name] for name in ("instruction", "input", "output", "system", "text", "answer") if row.get(name)]
    for name in ("messages", "prompt_messages", "chosen", "rejected"):
        texts += [turn["content"] for turn in row.get(name) or [] if turn.get("content")]
    return [*texts, *(side for pair in row.get("history") or [] for side in pair)]


def read_rows(node: ArtifactNode, name: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one Parquet file of an artifact, with those of `columns` that it has.

    Empty if the file is missing, a link or damaged.
    """
    path = node.path / name if node.path else Path()
    if path.is_symlink() or not path.is_file():
        return []
    try:
        wanted = None if columns is None else [column for column in columns if column in pq.read_schema(path).names]
        return pq.read_table(path, columns=wanted).to_pylist()
    except (OSError, ValueError):  # damaged; `--verify` reports it
        return []


def _raw_hashes(index: ArtifactIndex, node: ArtifactNode) -> dict[tuple[str | None, str | None], str]:
    """(table, file) → SHA-256 of the raw file, from the snapshots that an artifact was made from."""
    hashes: dict[tuple[str | None, str | None], str] = {}
    queue, seen = [node], set()
    while queue:
        here = queue.pop()
        if here.path in seen:
            continue
        seen.add(here.path)
        for entry in here.config.get("files", []) if here.kind.startswith("raw_") else []:
            hashes[here.kind.removeprefix("raw_"), entry["name"]] = entry.get("sha256")
        queue += [source for _, source in inputs_of(index, here)]
    return hashes
