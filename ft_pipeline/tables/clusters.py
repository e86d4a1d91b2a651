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
from ft_pipeline.tables.dedup.hashes import SpanHashes
from ft_pipeline.tables.dedup.templates import MASK, without_signs
from ft_pipeline.tables.dedup.tokens import DIGITS, NUMBER, Texts, Tokens, tokenize
from ft_pipeline.tables.formats.comparison_texts import views_of_messages

WORDS = 2
"""Number of words in a window."""
MIN_SHARED = 0.4
"""Share of windows in common from which a row joins a cluster."""
COMMON, FEW = 0.5, 10
"""A window that more than this share of the texts have, and more than so many, is of the task, and no pattern."""
MAX_ROWS = 20_000
"""Number of rows of a split, those with the smallest ids, that are compared. This bounds the time: the others are
clusters of their own."""
BLOCK = 1_000
"""Number of rows that are compared at a time."""


@dataclass(frozen=True)
class Clusters:
    """The clusters of rows."""

    number: np.ndarray
    """int32, of each row: an index into `names`; -1: the row has no cluster of others."""
    names: list[str]
    """The id of the first row of each cluster."""

    def column(self, part: slice) -> pa.Array:
        """Return the names of the clusters of some rows; null for rows without one."""
        number = self.number[part]
        indices = pa.array(number, mask=number < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.names, pa.string())).cast(pa.string())


def find_clusters(rows: ConversationRows, splits: np.ndarray, held_out: tuple[int, ...]) -> Clusters:
    """Return the clusters of the rows of some splits, each split for itself.

    splits: of each row; a row that is in no split has another number than those of `held_out`.
    """
    number = np.full(len(rows), -1, np.int32)
    names: list[str] = []
    for split in held_out:
        positions = np.flatnonzero(splits == split)
        ids = _ids(rows, positions)
        first = np.argsort(ids, kind="stable")[:MAX_ROWS]
        positions, ids = positions[first], ids[first]
        leaders = cluster(_questions(rows, positions), rows.keys.group[positions, 1])
        number[positions] = len(names) + leaders
        names += ids.tolist()
    return Clusters(number, names)


def _ids(rows: ConversationRows, positions: np.ndarray) -> np.ndarray:
    """Return the ids of the rows at these positions, which ascend."""
    done, parts = 0, [np.empty(0, dtype=object)]
    for folder in rows.folders.values():
        with open_parquet(folder / "rows.parquet") as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["id"]):
                first, last = np.searchsorted(positions, [done, done + batch.num_rows])
                taken = batch["id"].take(pa.array(positions[first:last] - done))
                parts.append(taken.to_numpy(zero_copy_only=False))
                done += batch.num_rows
    return np.concatenate(parts)


def _questions(rows: ConversationRows, positions: np.ndarray) -> pa.Array:
    """Return the human turns of the rows at these positions, in their order."""
    ascending = np.argsort(positions)
    asked = [views_of_messages(messages).asked for messages, _ in rows.batches(positions[ascending])]
    texts = pa.chunked_array(asked, pa.large_string()).combine_chunks()
    return texts.take(pa.array(np.argsort(ascending)))


def cluster(texts: Texts, names: np.ndarray) -> np.ndarray:
    """Return, for each text, the place of the first text of its cluster, shape (texts,).

    names: texts of equal names are one cluster, that of the first of them.
    """
    windows = _windows(tokenize(texts))
    sizes = np.asarray(windows.sum(axis=1)).ravel()
    leader_of, of_name = np.arange(len(sizes)), dict[int, int]()
    leaders = np.empty(0, np.int64)
    for begin in range(0, len(sizes), BLOCK):
        block = np.arange(begin, min(begin + BLOCK, len(sizes)))
        compared = np.concatenate([leaders, block])
        shared = (windows[block] @ windows[compared].T).tocsr()
        near = 2 * shared.data / (np.repeat(sizes[block], np.diff(shared.indptr)) + sizes[compared[shared.indices]])
        for at, row in enumerate(block.tolist()):
            part = slice(shared.indptr[at], shared.indptr[at + 1])
            nearest = _nearest(near[part], compared[shared.indices[part]], row, leader_of)
            leader_of[row] = of_name.setdefault(names[row], nearest)
        leaders = np.concatenate([leaders, block[leader_of[block] == block]])
    return leader_of


def _nearest(near: np.ndarray, others: np.ndarray, row: int, leader_of: np.ndarray) -> int:
    """Return the nearest leader before a row, of equally near ones the first; the row itself if none is near enough."""
    may_lead = (near >= MIN_SHARED) & (others < row) & (leader_of[others] == others)
    if not may_lead.any():
        return row
    near, others = near[may_lead], others[may_lead]
    return int(others[near == near.max()].min())


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
    hashes = SpanHashes(words.hashes).of(places, np.minimum(places + WORDS, ends[texts]))
    distinct, numbers = np.unique(hashes, return_inverse=True)
    matrix = sparse.csr_array((np.ones(len(texts), np.int32), (texts, numbers)), (len(words), len(distinct)))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    is_common = np.asarray(matrix.sum(axis=0)).ravel() > max(COMMON * len(words), FEW)
    return matrix[:, ~is_common]
