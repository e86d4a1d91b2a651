"""Whether the windows that rows are known by find those that are near, against MinHash bands, which did it before.

    python -m benchmarks.near_rows [--rows 200000] [--public FOLDER]

The rows are generated: words with the frequencies of a real lexicon, and phrases that many rows share; in the second
set under one instruction of 40 words. Some rows have a near copy (nine tenths of their runs of three words in common),
some have a sibling with other words, 5 or 10 % changed in each of the two. The near copies among 3,000 rows are found
by comparing all pairs. FOLDER holds public files, by the names in benchmarks/clusters.py; all of their rows are
compared. Seconds are those of one thread of the processor, the best of three rounds. Results go to
benchmarks/results/near_rows.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy import sparse

from benchmarks import clusters, machine
from ft_pipeline.tables.dedup import near_duplicates
from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.lowest_windows import KEPT, NONE, SHARED, lowest_windows, share_a_value, share_windows
from ft_pipeline.tables.dedup.shingles import ANSWER, shingle

RESULTS = Path(__file__).parent / "results" / "near_rows.json"
BANDS = 8
FACTORS = mix(np.arange(1, 2 * BANDS + 1, dtype=np.uint64) * PLACES[0]) | np.uint64(1)
BLOCK = 1 << 15
PLANTED = 1_000
"""Number of copies of each kind."""
SAMPLE = 3_000
KINDS = ("near", "5 %", "10 %")
Found = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bands_of(windows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the MinHash bands of rows: uint32, shape (rows, BANDS), each of two minima."""
    bands, ends, begin = np.empty((len(lengths), BANDS), np.uint32), np.cumsum(lengths), 0
    while begin < len(lengths):
        done = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, done + BLOCK)), begin + 1)
        block, starts = windows[done : ends[end - 1]], ends[begin:end] - lengths[begin:end] - done
        for band in range(BANDS):
            first, second = (np.minimum.reduceat(block * one, starts) for one in FACTORS[2 * band : 2 * band + 2])
            bands[begin:end, band] = mix(first * PLACES[1] + second * PLACES[2]) >> np.uint64(32)
        begin = end
    return bands


def share_a_band(bands: np.ndarray) -> np.ndarray:
    """Return a bool per row: whether another row has one of its bands."""
    return np.any([share_a_value(np.ascontiguousarray(bands[:, band])) for band in range(BANDS)], axis=0)


def have_a_band(bands: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a bool per pair of rows: whether they have a band in common."""
    return (bands[first] == bands[second]).any(axis=1)


def have_windows(lowest: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a bool per pair of rows: whether they have SHARED windows in common."""
    equal = lowest[first][:, :, None] == lowest[second][:, None, :]
    return (equal & (lowest[first] != NONE)[:, :, None]).sum(axis=(1, 2)) >= SHARED


METHODS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray], Callable[..., np.ndarray]]] = {
    "MinHash bands": (bands_of, share_a_band, have_a_band),
    "lowest windows": (lowest_windows, share_windows, have_windows),
}
"""Name → what makes the keys of rows, selects the rows that may be near others, and the pairs."""


class Writer:
    """Writes rows. Equal seeds give equal rows."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.words = np.array([self._word() for _ in range(30_000)])
        phrases = [" ".join(self.draw.choice(self.words[:5_000], self.draw.integers(3, 7))) for _ in range(2_000)]
        self.units = np.concatenate([self.words, phrases])
        weights = [1 / (np.arange(len(part)) + 10) for part in (self.words, phrases)]
        self.shares = np.concatenate(
            [share * part / part.sum() for share, part in zip((0.94, 0.06), weights, strict=True)]
        )

    def _word(self) -> str:
        return "".join(map(chr, self.draw.integers(97, 123, self.draw.integers(2, 10))))

    def texts(self, count: int) -> list[str]:
        lengths = self.draw.integers(10, 140, count)
        units = self.units[self.draw.choice(len(self.units), int(lengths.sum()), p=self.shares)].tolist()
        ends = np.cumsum(lengths).tolist()
        return [" ".join(units[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]

    def changed(self, text: str, count: int) -> str:
        """Return a text with so many other words."""
        words = text.split(" ")
        for place in self.draw.choice(len(words), min(count, len(words)), replace=False):
            words[place] = str(self.draw.choice(self.words))
        return " ".join(words)


def rows_of(count: int, instruction: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return rows, under an instruction of so many words, and the pairs of each kind: shape (PLANTED, 2)."""
    writer = Writer()
    texts = writer.texts(count - len(KINDS) * PLANTED)
    planted, pairs = list[str](), dict[str, np.ndarray]()
    long = [at for at, text in enumerate(texts) if text.count(" ") >= 70][: len(KINDS) * PLANTED]
    for number, kind in enumerate(KINDS):
        originals = long[number * PLANTED : (number + 1) * PLANTED]
        for at in originals:
            text, words = texts[at], 1 + texts[at].count(" ")
            share = {"5 %": 0.05, "10 %": 0.1}.get(kind)
            if share is not None:
                texts[at] = writer.changed(text, round(share * words))
            planted.append(writer.changed(text, 1 if share is None else round(share * words)))
        copies = len(texts) + number * PLANTED + np.arange(len(originals))
        pairs[kind] = np.stack([np.array(originals), copies], axis=1)
    beginning = " ".join(writer.words[100 : 100 + instruction]) + " " if instruction else ""
    return [beginning + text for text in [*texts, *planted]], pairs


def near_pairs(windows: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of some rows with nine tenths of their windows in common, but not all, by comparing all."""
    starts = np.cumsum(lengths) - lengths
    parts = [windows[starts[row] : starts[row] + lengths[row]] for row in rows]
    _, columns = np.unique(np.concatenate(parts), return_inverse=True)
    owners = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
    matrix = sparse.csr_array((np.ones(len(columns), np.int32), (owners, columns)))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    sizes, first, second = np.asarray(matrix.sum(axis=1)).ravel(), list[np.ndarray](), list[np.ndarray]()
    for begin in range(0, len(rows), 500):
        shared = (matrix[begin : begin + 500] @ matrix.T).tocoo()
        row, other = shared.row + begin, shared.col
        union = sizes[row] + sizes[other] - shared.data
        near = (row < other) & (10 * shared.data >= 9 * union) & (shared.data < union)
        first.append(rows[row[near]])
        second.append(rows[other[near]])
    return np.concatenate(first), np.concatenate(second)


def best(work: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Return (seconds of the fastest round, the result)."""
    seconds, result = [], None
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return round(min(seconds), 3), result


def measure(texts: list[str], pairs: dict[str, np.ndarray], sample: np.ndarray) -> dict[str, Any]:
    """Return what each method takes and finds. sample: the rows of which all pairs are compared."""
    shingling, (windows, lengths) = best(partial(shingle, texts), 1)
    first, second = near_pairs(windows, lengths, sample)
    starts = np.cumsum(lengths) - lengths

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes = lengths[rows]
        places = np.repeat(starts[rows] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        return windows[places] & ~ANSWER, sizes

    result: dict[str, Any] = {
        "rows": len(texts),
        "windows": len(windows),
        "near pairs of all pairs": len(first),
        "seconds of the windows": shingling,
    }
    for name, (make, select, have) in METHODS.items():
        keys_seconds, keys = best(partial(make, windows, lengths))
        search_seconds, selected = best(partial(select, keys))
        with patch.object(near_duplicates, "share_windows", lambda _, compared, selected=selected: selected):
            whole = partial(near_duplicates.find_near, SimpleNamespace(windows=keys), np.arange(len(texts)), read)
            compare_seconds, found = best(whole, 1)
        result[name] = {
            "bytes per row": keys.itemsize * keys.shape[1],
            "seconds of the keys": keys_seconds,
            "seconds of the search": search_seconds,
            "rows selected": int(selected.sum()),
            "seconds of the comparison": compare_seconds,
            "near duplicates": len(found),
            "near pairs found": int(have(keys, first, second).sum()),
            "planted pairs found": {kind: float(have(keys, *some.T).mean()) for kind, some in pairs.items()},
        }
    return result


def public_sets(folder: Path) -> dict[str, list[str]]:
    """Return the questions of public sets."""
    return {name: clusters.read(source, folder).texts.to_pylist() for name, source in clusters.PUBLIC.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--public", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine.describe(), "kept": KEPT, "shared": SHARED, "bands": BANDS}
    for name, instruction in (("questions and answers", 0), ("under one instruction", 40)):
        texts, pairs = rows_of(arguments.rows, instruction)
        planted = pairs["near"].ravel()
        others = np.setdiff1d(np.arange(len(texts)), planted)[: SAMPLE - len(planted)]
        results[name] = measure(texts, pairs, np.sort(np.concatenate([planted, others])))
        print(name, json.dumps(results[name], indent=1))
    for name, texts in (public_sets(arguments.public) if arguments.public else {}).items():
        results[name] = measure(texts, {}, np.arange(len(texts)))
        print(name, json.dumps(results[name], indent=1))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
