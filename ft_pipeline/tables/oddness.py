"""How odd a row is within its table: one score of four measures, each with words that explain it.

The measures need no language and no model: rare character sequences, repetition, symbols, and an answer that is short
for its prompt. Each is compared with its distribution over a sample of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.text_bytes import buffers

SHORT, LONG = 4, 16
"""Lengths of a sequence in UTF-8 bytes. Short ones tell rare words and scripts, long ones repetition."""
HASH_BITS = {SHORT: 20, LONG: 32}
SLACK = 20
"""Added to the length of a text, so that the shares of a text of a few characters mean little."""
NORMAL_95 = 1.645
"""The 95th percentile of a normal distribution."""
CHUNK_ROWS = 250
"""Rows whose sequences are in memory at a time."""
LETTERS_AND_SPACE = r"[\p{L}\p{M}\s]+"


@dataclass(frozen=True)
class Measure:
    """One respect in which a row can be odd."""

    least_spread: float
    """Smallest spread that is used. In a uniform table a small difference is not odd."""
    describe: Callable[[float, float], str]
    """(value of the row, median of the table) → why the row is odd."""


MEASURES = (
    Measure(
        0.04,
        lambda value, median: f"{value:.0%} of its short character sequences are in no other row (median {median:.0%})",
    ),
    Measure(0.04, lambda value, median: f"{value:.0%} of it is repetition (median {median:.0%})"),
    Measure(0.04, lambda value, median: f"{value:.0%} of it is digits and symbols (median {median:.0%})"),
    Measure(
        0.5, lambda value, median: f"its prompt is {2**value:,.1f} × as long as its answer (median {2**median:.1f} ×)"
    ),
)
"""In the order of the columns of `_measure`."""


@dataclass(frozen=True)
class Statistics:
    """What the rows of a table are compared with. Made from a sample of them."""

    rows_with: np.ndarray
    """int64 (2 ** HASH_BITS[SHORT],): number of sampled rows that contain a short sequence with this hash."""
    last_id: str
    """The greatest id in the sample, which has the rows with the smallest ids."""
    median: np.ndarray
    """float64 (measures,): the median of the sample."""
    spread: np.ndarray
    """float64 (measures,): the standard deviation of a normal distribution with the same median and 95th percentile."""


def table_statistics(sample: pa.Table) -> Statistics:
    """Return the statistics of a table. sample: at least one row of `row_texts.sample_rows`."""
    rows_with = np.zeros(2 ** HASH_BITS[SHORT], dtype=np.int64)
    for chunk in sample.to_batches(max_chunksize=CHUNK_ROWS):
        _, hashes, _ = _distinct_sequences(_texts(chunk), SHORT)
        rows_with += np.bincount(hashes, minlength=len(rows_with))
    last_id = sample["id"][-1].as_py()
    chunks = sample.to_batches(max_chunksize=CHUNK_ROWS)
    median, high = np.quantile(
        np.concatenate([_measure(chunk, rows_with, last_id) for chunk in chunks]), [0.5, 0.95], 0
    )
    spread = (high - median) / NORMAL_95
    return Statistics(rows_with, last_id, median, np.maximum(spread, [measure.least_spread for measure in MEASURES]))


def oddness(rows: pa.RecordBatch, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Return (deviations, values) of some rows of a table, both float64 (rows, measures).

    A deviation counts spreads above the median. A row is as odd as its greatest deviation.
    """
    chunks = (rows.slice(begin, CHUNK_ROWS) for begin in range(0, rows.num_rows, CHUNK_ROWS))
    values = np.concatenate([_measure(chunk, statistics.rows_with, statistics.last_id) for chunk in chunks])
    return (values - statistics.median) / statistics.spread, values


def explain(deviations: np.ndarray, values: np.ndarray, statistics: Statistics, least: float) -> str:
    """Return why a row is odd: each measure whose deviation is at least `least`, the greatest first."""
    order = [number for number in np.argsort(-deviations, kind="stable") if deviations[number] >= least]
    return "; ".join(
        MEASURES[number].describe(float(values[number]), float(statistics.median[number])) for number in order
    )


def _measure(rows: pa.RecordBatch, rows_with: np.ndarray, last_id: str) -> np.ndarray:
    """Return the values of MEASURES, float64 (rows, measures)."""
    texts = _texts(rows)
    in_sample = pc.less_equal(rows["id"], last_id).to_numpy(zero_copy_only=False)
    row, hashes, _ = _distinct_sequences(texts, SHORT)
    rare = rows_with[hashes] <= in_sample[row]
    rare_share = np.bincount(row[rare], minlength=len(rows)) / (np.bincount(row, minlength=len(rows)) + SLACK)
    row, _, counts = _distinct_sequences(texts, LONG)
    repeated_share = (counts - np.bincount(row, minlength=len(rows))) / (counts + SLACK)
    symbols = pc.utf8_length(pc.replace_substring_regex(texts, LETTERS_AND_SPACE, "")).to_numpy()
    symbol_share = symbols / (pc.utf8_length(texts).to_numpy() + SLACK)
    prompt, answer = (pc.utf8_length(rows[name]).to_numpy() for name in ("prompt", "answer"))
    ratio = np.where((prompt > 0) & (answer > 0), np.log2((prompt + 1) / (answer + 1)), 0)
    return np.stack([rare_share, repeated_share, symbol_share, ratio], axis=1)


def _texts(rows: pa.RecordBatch) -> pa.Array:
    """Return the prompt and the answer of each row as one text in lower case."""
    columns = [rows[name].cast(pa.large_string()) for name in ("prompt", "answer")]
    return pc.utf8_lower(pc.binary_join_element_wise(*columns, pa.scalar("\n", pa.large_string())))


def _distinct_sequences(texts: pa.Array, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (row, hash) of each distinct sequence of `length` bytes within each text, and the number of all sequences
    per row. All digits count as equal."""
    ends, data = buffers(texts)
    letters = data[ends[0] : ends[-1]].astype(np.uint64)
    letters[(letters >= ord("0")) & (letters <= ord("9"))] = ord("0")
    row = np.repeat(np.arange(len(texts)), np.diff(ends))
    values, size, factor = letters, 1, 0x9E3779B97F4A7C15
    while size < length:  # a polynomial: that of 2n bytes is made of two of n bytes
        values = values[:-size] * np.uint64(factor) + values[size:]
        size, factor = 2 * size, factor**2 % 2**64
    starts = row[: len(values)]
    within = starts == row[length - 1 :] if len(values) else np.zeros(0, dtype=bool)
    bits = HASH_BITS[length]
    hashes = (values[within] * np.uint64(0xC2B2AE3D27D4EB4F)) >> np.uint64(64 - bits)
    starts = starts[within]
    keys = np.sort((starts.astype(np.uint64) << np.uint64(bits)) | hashes)
    keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]  # np.unique is ten times slower
    distinct = (keys >> np.uint64(bits)).astype(np.int64), (keys & np.uint64(2**bits - 1)).astype(np.int64)
    return *distinct, np.bincount(starts, minlength=len(texts))
