"""Rows of a chain: rows that a model was trained on and their origins, rows left out, search for a sentence."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from ft_pipeline.audit.chain import Chain, inputs_of
from ft_pipeline.lineage.artifact_index import ArtifactIndex, ArtifactNode
from ft_pipeline.lineage.row_usage import SPLITS, read_rows
from ft_pipeline.tables.formats.turns import searchable_texts
from ft_pipeline.tables.relabels import relabeled, trained_labels
from ft_pipeline.tables.text_rules import normalise

ORIGIN_COLUMNS = ("file", "row")
"""Columns of a table that say where a row came from. `table` is a third one in tables that combine others."""
NEAR_SHARE = 0.6
"""Smallest share of the sentence's phrases that a near text contains."""
PHRASE_WORDS = 3
"""Number of words of a phrase."""


@dataclass(frozen=True)
class TrainingRow:
    """One row of the data of a training step."""

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Match:
    """A row that contains a sentence, exactly or nearly."""

    how: str
    """`equal` (to a whole turn), `contained`, or `near`."""
    share: float
    """Share of the sentence's phrases that the row contains (0 to 1)."""
    use: str
    """`train`, `validation`, `test`, `not trained on`, or `set aside: CODE`."""
    origin: str
    text: str
    """The turn that matches best."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Containment(IntEnum):
    """Whether a text contains the words of a sentence in their order. The higher, the better the match."""

    NO = 0
    PART = 1
    """The text has other words too."""
    WHOLE = 2


CLOSENESS = {_Containment.WHOLE: "equal", _Containment.PART: "contained", _Containment.NO: "near"}
"""Values of Match.how, best first. A text that does not contain the sentence is a match only if it is near."""


@dataclass(frozen=True)
class _ComparedText:
    """One text of a row, compared with a sentence."""

    containment: _Containment
    share: float
    text: str


@dataclass(frozen=True)
class _SearchedRow:
    """One row in which a sentence is searched."""

    use: str
    """As in Match."""
    origin: str
    texts: list[str]


def training_rows(chain: Chain) -> list[TrainingRow]:
    """Return every row of every training step of the chain, in the order of the training data."""
    return [row for node in chain.of_kind("training_data") for row in _training_rows_of(chain.index, node)]


def _training_rows_of(index: ArtifactIndex, node: ArtifactNode) -> Iterator[TrainingRow]:
    origins = _row_origins(index, node)
    hashes = _raw_file_hashes(index, node)
    for split in SPLITS:
        token_rows = read_rows(node, f"{split}.parquet", ["id", "source"])
        counts = Counter((row["id"], row.get("source") or "") for row in token_rows)
        for (identity, source), copies in counts.items():
            table, file, number = origins.get(identity, (None, None, None))
            raw_sha256 = hashes.get((table, file))
            yield TrainingRow(node.fingerprint, split, source, identity, copies, table, file, number, raw_sha256)


def _row_origins(index: ArtifactIndex, node: ArtifactNode) -> dict[str, tuple[str, str, int]]:
    """Return row id → (table, file, row), from the tables that an artifact was made from."""
    origins = {}
    for _, table in inputs_of(index, node):
        for row in read_rows(table, "rows.parquet", ["id", "table", *ORIGIN_COLUMNS]):
            origins[row["id"]] = (row.get("table") or table.kind, row["file"], row["row"])
    return origins


def left_out_rows(chain: Chain) -> list[LeftOut]:
    """Return every row that a table of the chain read and set aside, with its reason."""
    columns = ["table", *ORIGIN_COLUMNS, "code", "message"]
    return [
        LeftOut(row.get("table") or node.kind, row["file"], row["row"], row["code"], row["message"], node.key)
        for node in chain.nodes
        for row in read_rows(node, "set_aside.parquet", columns)
    ]


def find_sentence(chain: Chain, sentence: str) -> list[Match]:
    """Return the rows of the chain that contain a sentence, best first: equal, contained in a turn, or near.

    Case, white space, Unicode form and punctuation are ignored. Held-out rows and rows that were set aside are searched
    too. Not searched: erased rows, and files that are missing, links or damaged (`ft audit --verify` reports these).
    """
    words = _normalized_words(sentence)
    phrases = _phrases(words)
    matches: dict[tuple[str, str], Match] = {}
    for row in _searched_rows(chain):
        compared = [_compare(text, words, phrases) for text in row.texts]
        best = max(compared, default=None, key=lambda candidate: (candidate.containment, candidate.share))
        if best is not None and (best.containment or best.share >= NEAR_SHARE):
            match = Match(CLOSENESS[best.containment], round(best.share, 3), row.use, row.origin, best.text)
            # A row may be in several tables: in `conversations`, and in `alpaca`, from which these were made. The later
            # table comes first, and only it has the split.
            matches.setdefault((row.origin, best.text), match)
    order = list(CLOSENESS.values())
    return sorted(matches.values(), key=lambda match: (order.index(match.how), -match.share, match.origin))


def _compare(text: str, sentence_words: str, sentence_phrases: set[str]) -> _ComparedText:
    words = _normalized_words(text)
    share = len(sentence_phrases & _phrases(words)) / len(sentence_phrases) if sentence_phrases else 0.0
    if words == sentence_words:
        return _ComparedText(_Containment.WHOLE, share, text)
    contains = f" {sentence_words} " in f" {words} "
    return _ComparedText(_Containment.PART if contains else _Containment.NO, share, text)


def _normalized_words(text: str) -> str:
    """Return the words of a text, normalized, without punctuation, with one space between them."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in normalise(text)).split())


def _phrases(text: str) -> set[str]:
    """Return all sequences of PHRASE_WORDS words; the whole text if it has fewer words."""
    words = text.split()
    size = min(PHRASE_WORDS, len(words))
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()


def _searched_rows(chain: Chain) -> Iterator[_SearchedRow]:
    """Yield every row of the tables that the training data was made from, and every row that was set aside.

    If the chain has no training data, all of its tables are searched, the subject's first.
    """
    splits, labels = _uses(chain)
    tables = {node.path: node for data in chain.of_kind("training_data") for _, node in chain.inputs_of(data)}
    for node in list(tables.values()) or chain.nodes:
        for row in read_rows(node, "rows.parquet"):
            if {"id", *ORIGIN_COLUMNS} <= row.keys():
                use = splits.get(row["id"]) or row.get("split") or "not trained on"
                trained = labels.get(row["id"], {None})
                for label in sorted(filter(None, trained)):
                    yield _SearchedRow(use, _origin_of(row, node), texts_of(relabeled(row, {row["id"]: label})))
                as_it_is = use if None in trained else "not trained on"
                yield _SearchedRow(as_it_is, _origin_of(row, node), texts_of(row))
    for node in chain.nodes:
        for row in read_rows(node, "set_aside.parquet"):
            yield _SearchedRow(f"set aside: {row['code']}", _origin_of(row, node), [row["raw"] or ""])


def _uses(chain: Chain) -> tuple[dict[str, str], dict[str, set[str | None]]]:
    """Return, by the id of a row in some training data, its split, and the labels with which it is trained. None: that
    of its raw file."""
    splits, labels = dict[str, str](), dict[str, set[str | None]]()
    for data in chain.of_kind("training_data"):
        new = trained_labels(data.path) if data.path else {}
        for split in SPLITS:
            for row in read_rows(data, f"{split}.parquet", ["id"]):
                splits[row["id"]] = split
                labels.setdefault(row["id"], set()).add(new.get(row["id"]))
    return splits, labels


def _origin_of(row: dict[str, Any], node: ArtifactNode) -> str:
    return f"{row.get('table') or node.kind}/{row['file']}:{row['row']}"


def texts_of(row: dict[str, Any]) -> list[str]:
    """Return the texts of people and models in a row of any table."""
    texts = [row[name] for name in ("instruction", "input", "output", "system", "text", "answer") if row.get(name)]
    for name in ("messages", "prompt_messages", "chosen", "rejected", "completion"):
        texts += itertools.chain.from_iterable(map(searchable_texts, row.get(name) or []))
    return [*texts, *(side for pair in row.get("history") or [] for side in pair)]


def _raw_file_hashes(index: ArtifactIndex, node: ArtifactNode) -> dict[tuple[str | None, str | None], str]:
    """Return (table, file) → SHA-256 of the raw file, from the snapshots that an artifact was made from."""
    hashes: dict[tuple[str | None, str | None], str] = {}
    waiting, visited = [node], set()
    while waiting:
        artifact = waiting.pop()
        if artifact.path in visited:
            continue
        visited.add(artifact.path)
        if artifact.kind.startswith("raw_"):
            for entry in artifact.config.get("files", []):
                hashes[artifact.kind.removeprefix("raw_"), entry["name"]] = entry.get("sha256")
        waiting += [input_node for _, input_node in inputs_of(index, artifact)]
    return hashes
