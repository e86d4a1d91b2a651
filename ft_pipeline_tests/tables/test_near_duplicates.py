"""Near duplicates are the pairs with nine tenths of their shingles in common; finding them is not quadratic."""

import random

import numpy as np
import pytest

from ft_pipeline.tables.dedup import near_duplicates
from ft_pipeline.tables.dedup.near_duplicates import ShingleSets, drop_unshared, match_sets, select_rarest


def sets_of(rows):
    shingles = np.array([shingle for row in rows for shingle in row], np.uint64)
    return ShingleSets.of_rows(shingles, np.array([len(row) for row in rows]))


def matches_of(rows):
    sets = sets_of(rows)
    numbers = np.arange(len(rows))
    rare = drop_unshared(*select_rarest(sets, sets.frequencies()))
    return match_sets(numbers, numbers, sets, rare, None)


def by_comparing_all(rows):
    """Row → the first kept row before it with Jaccard >= 9/10."""
    found, kept = {}, []
    for number, row in enumerate(map(set, rows)):
        near = (other for other in kept if 10 * len(row & set(rows[other])) >= 9 * len(row | set(rows[other])))
        original = next(near, None)
        if original is None:
            kept.append(number)
        else:
            found[number] = original
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_same_pairs_are_found_as_by_comparing_all(seed):
    """Sets around the limit: copies with up to a tenth of their shingles changed, added or removed."""
    pick = random.Random(seed)
    size = pick.choice([5, 20, 60, 300])
    rows = [pick.sample(range(20 * size), size) for _ in range(6)]
    for _ in range(60):
        row = list(pick.choice(rows))
        changes = pick.randint(0, size // 8 + 1)
        removed, added = pick.choice(
            [(changes, changes // 2), (changes, 0), (0, changes), (changes // 2, changes // 2)]
        )
        for _ in range(min(removed, len(row) - 1)):
            row.pop(pick.randrange(len(row)))
        rows.append(list({*row, *pick.sample(range(20 * size), added)}))
    assert matches_of(rows) == by_comparing_all(rows)


def test_texts_built_from_the_same_parts_are_compared_with_a_few_others(monkeypatch):
    """Each of 3,000 rows shares some of its rarest shingles with hundreds of others."""
    pick = random.Random(0)
    shared = range(400)
    parts = [
        [range(1000 * slot + 20 * number, 1000 * slot + 20 * number + 12) for number in range(40)]
        for slot in range(1, 21)
    ]
    rows = [[*shared, *(shingle for slot in parts for shingle in pick.choice(slot))] for _ in range(3000)]
    compared = []
    common = ShingleSets.common
    monkeypatch.setattr(
        near_duplicates.ShingleSets,
        "common",
        lambda sets, row, others: compared.append(len(others)) or common(sets, row, others),
    )
    assert matches_of(rows) == {}
    assert sum(compared) < 5 * len(rows)
