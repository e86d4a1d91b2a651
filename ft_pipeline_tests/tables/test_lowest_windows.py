"""Rows that have much in common share three of the windows that they are known by; others do not."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.dedup import lowest_windows as module
from ft_pipeline.tables.dedup.lowest_windows import (
    KEPT,
    NONE,
    SHARED,
    common_windows,
    lowest_windows,
    share_windows,
    triples_of,
)
from ft_pipeline_tests.examples import examples

SMALL = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=12)
HASHES = np.random.default_rng(0).integers(0, 2**64 - 1, 400_000, dtype=np.uint64)


def known_by(rows):
    """The windows that rows are known by, from the numbers of all of their windows."""
    hashes = HASHES[[window for row in rows for window in row]]
    return lowest_windows(hashes, np.array([len(row) for row in rows]))


def in_common(lowest, first, second):
    return len((set(lowest[first].tolist()) & set(lowest[second].tolist())) - {int(NONE)})


def test_a_row_is_known_by_its_lowest_distinct_windows():
    pick = random.Random(0)
    rows = [pick.choices(range(300), k=pick.choice([1, 2, 6, 8, 40, 900])) for _ in range(300)]
    for row, found in zip(rows, known_by(rows).tolist(), strict=True):
        hashes = sorted({int(value) >> 12 for value in HASHES[row]})
        expected = [value & 0xFFFFFFFF for value in hashes[:KEPT]]
        if len(expected) == 1:
            expected.append(expected[0] ^ 0xFFFFFFFF)
        if len(expected) == 2:
            expected.append((expected[0] * 0x9E3779B1 + expected[1]) & 0xFFFFFFFF)
        assert found == expected + [int(NONE)] * (KEPT - len(expected))


@pytest.mark.parametrize("size", [1, 10, 11, 30, 100, 1000])
def test_rows_with_nine_tenths_in_common_share_three_windows(size):
    pick = random.Random(size)
    rows, numbers = [], iter(range(len(HASHES)))
    for _ in range(300):
        both, alone = [next(numbers) for _ in range(size)], size // 9
        removed = [next(numbers) for _ in range(pick.randint(0, alone))]
        rows += [both + removed, both + [next(numbers) for _ in range(alone - len(removed))]]
    lowest = known_by(rows)
    assert all(in_common(lowest, first, first + 1) >= SHARED for first in range(0, len(rows), 2))
    assert share_windows(lowest).all()


@examples(25)
@given(SMALL, st.sampled_from([1, 7, 1 << 20]))
def test_rows_that_share_three_are_those_of_a_comparison_of_all(rows, part):
    lowest = known_by(rows)
    pairs = [pair for pair in combinations(range(len(rows)), 2) if in_common(lowest, *pair) >= SHARED]
    expected = [any(row in pair for pair in pairs) for row in range(len(rows))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", part)
        assert share_windows(lowest).tolist() == expected
        common, windows, first = common_windows(lowest)
        leaders = dict(zip(common.tolist(), common[first].tolist(), strict=True))
        together = {(leader, row) for row, leader in leaders.items() if leader != row}
        for triples, owners in triples_of(windows, first):
            for value in np.unique(triples):
                together |= set(combinations(sorted(common[owners[triples == value]].tolist()), 2))
        assert together == {
            pair for pair in pairs if (leaders[pair[0]], leaders[pair[1]]) in {pair, (pair[0], pair[0])}
        }


def test_a_phrase_alone_makes_no_two_rows_near():
    rows = [[0, 1, *range(100 * row + 2, 100 * row + 40)] for row in range(50)]
    assert not share_windows(known_by(rows)).any()
