"""Batches: every row once, similar lengths together, the longest first, the same for the same seed and epoch."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.batches import (
    LengthGroupedSampler,
    TokenBatches,
    batches_by_length,
    collate,
)

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


def epoch(lengths, size, number, seed=0):
    sampler = LengthGroupedSampler(lengths, size, seed)
    sampler.set_epoch(number)
    return list(sampler)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 16), st.integers(0, 3))
def test_every_row_comes_once_per_epoch(lengths, size, number):
    assert sorted(epoch(lengths, size, number)) == list(range(len(lengths)))


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 16))
def test_the_longest_full_batch_comes_first(lengths, size):
    order = epoch(lengths, size, 0)
    batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
    longest = [max(lengths[row] for row in batch) for batch in batches if len(batch) == size]
    assert not longest or longest[0] == max(longest)


def test_the_order_depends_only_on_seed_and_epoch():
    lengths = [(7 * number) % 83 + 1 for number in range(100)]
    assert epoch(lengths, 8, 2) == epoch(lengths, 8, 2)
    assert epoch(lengths, 8, 2) != epoch(lengths, 8, 1)
    assert epoch(lengths, 8, 2) != epoch(lengths, 8, 2, seed=1)


def test_grouping_wastes_little_on_padding():
    lengths = [(37 * number) % 200 + 20 for number in range(400)]
    order = epoch(lengths, 8, 1)
    batches = [order[begin : begin + 8] for begin in range(0, len(order), 8)]
    padded = sum(8 * max(lengths[row] for row in batch) for batch in batches)
    assert padded / sum(lengths) < 1.2


def test_padding_is_masked_by_position_not_by_token():
    batch = collate([{"input_ids": [5, 6, 2], "labels": [-100, 6, 2]}, {"input_ids": [7], "labels": [7]}], 2)
    assert batch["input_ids"].tolist() == [[5, 6, 2], [7, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[MASKED, 6, 2], [7, MASKED, MASKED]]


def test_held_out_batches_are_always_the_same():
    rows = [{"input_ids": [0] * length} for length in (3, 9, 1, 5)]
    assert [[len(row["input_ids"]) for row in batch] for batch in batches_by_length(rows, 2)] == [[9, 5], [3, 1]]


# --- batches filled up to a number of tokens -----------------------------------------------------------------------


def filled(lengths, tokens, number, seed=0):
    batches = TokenBatches(lengths, tokens, seed)
    batches.set_epoch(number)
    assert len(batches) == len(list(batches))
    return list(batches)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 2000), st.integers(0, 3))
def test_every_row_is_once_in_a_batch_that_the_tokens_allow(lengths, tokens, number):
    batches = filled(lengths, tokens, number)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[row] for row in batch)
        assert padded <= tokens or len(batch) == 1
    if number == 0:
        sizes = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
        assert sizes[0] == max(sizes)


def test_epochs_have_the_same_batches_in_another_order():
    lengths = [(7 * number) % 83 + 1 for number in range(100)]
    first, second = (filled(lengths, 300, number) for number in (1, 2))
    assert first != second and sorted(first) == sorted(second)
    assert first == filled(lengths, 300, 1)
    assert sorted(first) != sorted(filled(lengths, 300, 1, seed=1))


def test_filled_batches_have_about_equally_many_tokens():
    lengths = [(37 * number) % 200 + 20 for number in range(400)]
    sizes = [sum(lengths[row] for row in batch) for batch in filled(lengths, 1000, 1)]
    assert min(sorted(sizes)[1:]) > 600 and max(sizes) <= 1000
    rows = [{"input_ids": [0] * length} for length in (3, 9, 1, 5, 4)]
    held_out = batches_by_length(rows, 2, tokens=10)
    assert [[len(row["input_ids"]) for row in batch] for batch in held_out] == [[9], [5, 4], [3, 1]]
