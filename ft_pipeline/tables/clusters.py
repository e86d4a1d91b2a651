"""Clusters of held-out rows: questions of one pattern, which are no independent evidence of what a model can do.

A row joins the first row of a cluster with which it has enough pairs of neighboring words in common: by the
Sørensen-Dice coefficient 2 |A ∩ B| / (|A| + |B|) of their sets of pairs. Numbers are masked, and what most rows have is
the task. Near to near is not near: a row that has joined attracts no other row. Rows of one split group (a prompt, a
template, a named group) are one cluster by name. benchmarks/clusters.py shows what comes out of public data, and by
other limits.

Rows come in the order of their ids, which are hashes of their content. So the order of files makes no difference, and a
new row changes only clusters of rows that come after it, unless it changes what most rows have. Those that are scored
first (`max_test_rows`) come first.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.conversation_rows import BATCH_ROWS, ConversationRows
from ft_pipeline.tables.dedup.in_threads import in_threads
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.templates import MASK, without_signs
from ft_pipeline.tables.dedup.tokens import DIGITS, NUMBER, Texts, Tokens, tokenize
from ft_pipeline.tables.formats.comparison_texts import human_turns
from ft_pipeline.tables.splits import SPLITS, TEST, VALIDATION

WORDS = 2
"""Number of words in a window."""
MIN_SHARED = 0.4
"""Share of windows in common from which a row joins a cluster."""
COMMON, FEW = 0.5, 10
"""A window that more than this share of the texts have, and more than so many, is of the task, and no pattern."""
HELD_OUT = (TEST, VALIDATION)
MAX_ROWS = 20_000
"""Number of rows of a split, those with the smallest ids, that are compared. This bounds the time: the others are
clusters of their own."""
BLOCK = 1_000
"""Number of rows that are compared at a time."""


@dataclass(frozen=True)
class Clusters:
    """The clusters of rows."""

    number: np.ndarray
    """int32, of each row: an index into `names`; -1: the row was not compared."""
    names: list[str]
    """The split and a number, in the order of the first rows: nothing of the content of a row that may be erased."""

    def column(self, part: slice) -> pa.Array:
        """Return the names of the clusters of some rows; null for rows without one."""
        number = self.number[part]
        indices = pa.array(number, mask=number < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.names, pa.string())).cast(pa.string())


class Questions:
    """The questions of the rows that are compared. They are added while the index of leaks reads the held-out rows."""

    def __init__(self, rows: ConversationRows, splits: np.ndarray) -> None:
        """splits: of each row. Only rows of HELD_OUT are compared."""
        held_out = np.flatnonzero(np.isin(splits, HELD_OUT))
        order = np.argsort(ids_of(rows, held_out, "S16"), kind="stable")  # a part tells them apart, and saves memory
        of_split = [order[splits[held_out[order]] == split][:MAX_ROWS] for split in HELD_OUT]
        chosen = np.sort(np.concatenate(of_split))
        self.positions = held_out[chosen]
        self.ids = ids_of(rows, self.positions)
        self._texts: list[pa.Array] = []

    def read(self, messages: pa.Array, positions: np.ndarray) -> pa.Array:
        """Return the human turns of those rows of a batch that are compared. positions: of its rows, ascending."""
        is_compared = np.isin(positions, self.positions, assume_unique=True)
        return human_turns(messages.filter(pa.array(is_compared)))

    def add(self, texts: pa.Array) -> None:
        """Add what `read` returned. The batches come in the order of their positions."""
        self._texts.append(texts)

    def clusters(self, rows: ConversationRows, splits: np.ndarray) -> "Clusters":
        """Return the clusters, each split for itself. splits: of the rows that stay; others are in no split."""
        texts = pa.chunked_array(self._texts, pa.large_string()).combine_chunks()
        number, names = np.full(len(rows), -1, np.int32), list[str]()
        of_splits = [np.flatnonzero(splits[self.positions] == split) for split in HELD_OUT]
        in_order = [of_split[np.argsort(self.ids[of_split], kind="stable")] for of_split in of_splits]

        def cluster_some(places: np.ndarray) -> np.ndarray:
            return cluster(texts.take(pa.array(places)), rows.keys.group[self.positions[places], 1])

        for split, places, leaders in zip(HELD_OUT, in_order, in_threads(cluster_some, in_order), strict=True):
            distinct, of_rows = np.unique(leaders, return_inverse=True)
            number[self.positions[places]] = len(names) + of_rows
            names += [f"{SPLITS[split]} {place}" for place in range(1, 1 + len(distinct))]
        return Clusters(number, names)


def ids_of(rows: ConversationRows, positions: np.ndarray, kind: str = "O") -> np.ndarray:
    """Return the ids of the rows at these positions, which ascend. kind: numpy's, to have only their beginnings."""
    done, parts = 0, [np.empty(0, kind)]
    for folder in rows.folders.values():
        with open_parquet(folder / "rows.parquet") as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["id"]):
                first, last = np.searchsorted(positions, [done, done + batch.num_rows])
                taken = batch["id"].take(pa.array(positions[first:last] - done))
                parts.append(taken.to_numpy(zero_copy_only=False).astype(kind))
                done += batch.num_rows
    return np.concatenate(parts)


def cluster(texts: Texts, names: np.ndarray) -> np.ndarray:
    """Return, for each text, the place of the first text of its cluster, shape (texts,).

    names: texts of equal names are one cluster, that of the first of them.
    """
    first_of_name = first_index(names)
    units = np.flatnonzero(first_of_name == np.arange(len(names)))
    windows = _windows(tokenize(texts))[units]
    sizes = np.asarray(windows.sum(axis=1)).ravel()
    leader_of, leaders = np.arange(len(units)), np.empty(0, np.int64)
    for begin in range(0, len(units), BLOCK):
        block = np.arange(begin, min(begin + BLOCK, len(units)))
        compared = np.concatenate([leaders, block])
        shared = (windows[block] @ windows[compared].T).tocoo()
        row, other = block[shared.row], compared[shared.col]
        near = 2 * shared.data / (sizes[row] + sizes[other])
        may_join = (near >= MIN_SHARED) & (other < row)
        order = np.flatnonzero(may_join)[np.lexsort((other[may_join], -near[may_join], row[may_join]))]
        for joining, leader in zip(row[order].tolist(), other[order].tolist(), strict=True):
            # The nearest one comes first. One that is in a cluster itself leads none.
            if leader_of[joining] == joining and leader_of[leader] == leader:
                leader_of[joining] = leader
        leaders = np.concatenate([leaders, block[leader_of[block] == block]])
    of_units = np.empty(len(names), np.int64)
    of_units[units] = units[leader_of]
    return of_units[first_of_name]


def _windows(tokens: Tokens) -> sparse.csr_array:
    """Return which windows of words each text has, as a matrix of 0 and 1, shape (texts, distinct windows)."""
    words = without_signs(tokens)
    is_number = (words.kinds == DIGITS) | (words.kinds == NUMBER)
    words = Tokens(np.where(is_number, MASK, words.hashes), words.kinds, words.counts)
    begins, ends = words.begins, words.ends
    # A text of fewer words has one window, of all its words.
    counts = np.where(words.counts > 0, np.maximum(words.counts - WORDS + 1, 1), 0)
    texts = np.repeat(np.arange(len(words)), counts)
    places = begins[texts] + np.arange(int(counts.sum())) - (np.cumsum(counts) - counts)[texts]
    hashes = words.span_hashes.of(places, np.minimum(places + WORDS, ends[texts]))
    distinct, numbers = np.unique(hashes, return_inverse=True)
    matrix = sparse.csr_array((np.ones(len(texts), np.int32), (texts, numbers)), (len(words), len(distinct)))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    is_common = np.asarray(matrix.sum(axis=0)).ravel() > max(COMMON * len(words), FEW)
    return matrix[:, ~is_common]
