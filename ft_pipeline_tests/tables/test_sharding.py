"""Duplicates over shards are those of one process, whatever the number of shards."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.tables.dedup import matching, near_duplicates
from ft_pipeline.tables.dedup.keys import keys_of
from ft_pipeline.tables.dedup.matching import DuplicateMatches, find_duplicates, first_index
from ft_pipeline.tables.dedup.near_duplicates import RareShingles, ReadShingles
from ft_pipeline.tables.dedup.sharding import Shards, components
from ft_pipeline.tables.dedup.shingles import shingle
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline_tests.examples import examples

COUNTS = st.integers(1, 7)
WORDS = st.sampled_from(["a", "b", "c", "d", "e"])


def reader(texts: list[str]) -> ReadShingles:
    return lambda rows: shingle([texts[row] for row in rows.tolist()])


def find(texts: list[str], ranks: np.ndarray, files: np.ndarray, shards: Shards | None = None) -> DuplicateMatches:
    keys = keys_of(FORMATS["text"], [(text,) for text in texts])
    if shards is None:
        return find_duplicates(keys, reader(texts), ranks, files)
    return find_duplicates(keys, reader(texts), ranks, files, shards.first_index, shards.find_near)


def corpus(seed: int, count: int = 400) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts of 40 words (equal, equal after normalization, near and different ones), their ranks and files."""
    draw = np.random.default_rng(seed)
    texts: list[str] = []
    for number in range(count):
        words = [f"w{word}" for word in draw.integers(0, 5000, 40)]
        if texts and draw.random() < 0.7:
            words = texts[int(draw.integers(0, len(texts)))].split(" ")
            kind = draw.integers(0, 4)
            if kind == 1:
                words[0] = words[0].upper()
            if kind > 1:
                words[int(draw.choice([0, -1]))] = f"new{number}"
        texts.append(" ".join(words))
    return texts, draw.integers(0, 3, count).astype(np.uint8), np.sort(draw.integers(0, 5, count)).astype(np.int32)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=50), COUNTS)
def test_first_indices_are_those_of_one_process(values: list[int], count: int) -> None:
    keys = np.array(values, dtype=np.uint64)
    assert Shards(count).first_index(keys).tolist() == first_index(keys).tolist()


def test_first_indices_of_more_hashes_than_are_sorted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).integers(0, 3000, 5000).astype(np.uint64)
    first: dict[int, int] = {}
    expected = [first.setdefault(key, position) for position, key in enumerate(keys.tolist())]
    for size in (1, 7, 1000, 5000):
        monkeypatch.setattr(matching, "PART_KEYS", size)
        assert first_index(keys).tolist() == expected, size


@examples(20)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=40), min_size=1, max_size=12), COUNTS, st.data())
def test_duplicates_of_short_texts_are_those_of_one_process(
    rows: list[list[str]], count: int, data: st.DataObject
) -> None:
    texts = [" ".join(words) for words in rows] + [" ".join([*rows[0] * 3, word]) for word in "xyz"]
    ranks = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(texts), max_size=len(texts))), np.uint8)
    files = np.arange(len(texts), dtype=np.int32) // 3
    one, sharded = find(texts, ranks, files), find(texts, ranks, files, Shards(count))
    assert (sharded.of.tolist(), sharded.exact.tolist()) == (one.of.tolist(), one.exact.tolist())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
@pytest.mark.parametrize("postings", [256, 1])
def test_duplicates_of_a_corpus_are_those_of_one_process(
    seed: int, postings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_POSTINGS", postings)
    texts, ranks, files = corpus(seed)
    one = find(texts, ranks, files)
    assert 0 < one.exact.sum() < (~one.kept).sum() - 20, "some are equal, and others are only near"
    for count in (1, 3, 16):
        sharded = find(texts, ranks, files, Shards(count))
        assert (sharded.of.tolist(), sharded.exact.tolist()) == (one.of.tolist(), one.exact.tolist())


def test_the_comparison_is_divided_and_only_rows_that_share_windows_are_read() -> None:
    texts, ranks, files = corpus(0)
    texts += [f"alone{number} nobody{number} shares{number} these{number}" for number in range(50)]
    ranks, files = np.append(ranks, np.full(50, 2, np.uint8)), np.append(files, np.full(50, 5, np.int32))
    keys, read_shingles = keys_of(FORMATS["text"], [(text,) for text in texts]), reader(texts)
    read: list[np.ndarray] = []

    def recording(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read.append(rows)
        return read_shingles(rows)

    tasks_by_function: dict[str, int] = {}

    def counting(function: Callable, items: Iterator) -> Iterator:
        for item in items:
            name = getattr(getattr(function, "func", function), "__name__", "")
            tasks_by_function[name] = tasks_by_function.get(name, 0) + 1
            yield function(item)

    shards = Shards(4, counting)
    find_duplicates(keys, recording, ranks, files, shards.first_index, shards.find_near)
    assert tasks_by_function == {"first_index": 8, "share_a_value": 8, "_count": 4, "_select": 4, "_compare": 4}
    assert max(rows.max() for rows in read) < 400 and max(len(rows) for rows in read) < 200


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_components_are_those_of_a_merge_of_sets(pairs: list[tuple[int, int]]) -> None:
    pairs.sort()
    expected = list(range(12))
    for _ in range(12):
        for owner, shingle_id in pairs:
            for other, other_id in pairs:
                if other_id == shingle_id:
                    expected[owner] = expected[other] = min(expected[owner], expected[other])
    owners, ids = (np.array([pair[place] for pair in pairs], dtype=np.int64) for place in (0, 1))
    assert components(RareShingles(owners, ids), 12).tolist() == expected


def test_nothing_is_near_where_there_are_no_rows() -> None:
    keys = keys_of(FORMATS["text"], [])
    assert Shards(3).find_near(keys, np.empty(0, dtype=np.int64), reader([])) == {}
    assert first_index(keys.exact).size == Shards(3).first_index(keys.exact).size == 0
