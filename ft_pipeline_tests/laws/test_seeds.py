"""A seed gives the same choice, in any order of the rows and in any process. A row more replaces one row at most."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ft_pipeline.evaluation.items import select_rows
from ft_pipeline.evaluation.opinions.agreement import agreement
from ft_pipeline.judge.pairs import hash_of_item
from ft_pipeline.models.chat import pick_examples, single_turn_rows
from ft_pipeline.ratings.pairs import Pair, in_order
from ft_pipeline.search.space import Dimension
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.dedup.keys import keys_of
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.splits import place_in_splits
from ft_pipeline.training.tokens.sample import apply_weight, sample_rows

DICE = st.randoms(use_true_random=False)
SEEDS = st.integers(0, 2**32)
IDS = st.text("0123456789abcdef", min_size=4, max_size=8)


def row(identity: str, file: str = "a.jsonl", split: str = "train") -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Ask {identity}"}, {"role": "assistant", "content": f"Say {identity}"}]
    return {"id": identity, "split": split, "table": "alpaca", "file": file, "messages": messages}


FILES = st.sampled_from(["a.jsonl", "b.jsonl", "c.jsonl"])
SPLITS = st.sampled_from(["train", "train", "test"])
ROWS = st.lists(st.builds(row, IDS, FILES, SPLITS), min_size=1, max_size=14, unique_by=lambda entry: entry["id"])
Rows = list[dict[str, Any]]


def examples(rows: Rows, count: int, seed: int) -> list[str]:
    train = [entry for entry in rows if entry["split"] == "train"]
    return [messages[0]["content"][4:] for messages in pick_examples(rows, min(count, len(train)), seed)]


def weighted(rows: Rows, count: int, seed: int) -> list[str]:
    return [rows[at]["id"] for at in apply_weight([entry["id"] for entry in rows], count / len(rows), seed)]


CHOICES: dict[str, Callable[[Rows, int, int], list[str]]] = {
    "held-out rows of an evaluation": lambda rows, count, seed: [entry["id"] for entry in sample_rows(rows, count)],
    "test rows": lambda rows, count, seed: [entry["id"] for entry in select_rows(rows, "test", count)],
    "examples of a prompt": examples,
    "a share of the training rows": weighted,
}
"""What chooses at most a number of rows, by a seed or by their hashes."""
choices = pytest.mark.parametrize("choice", CHOICES)


@choices
@given(ROWS, st.integers(1, 6), SEEDS, DICE)
def test_the_order_of_rows_changes_no_choice(
    choice: str, rows: Rows, count: int, seed: int, dice: random.Random
) -> None:
    count = min(count, len(rows))
    chosen = CHOICES[choice](rows, count, seed)
    assert sorted(chosen) == sorted(CHOICES[choice](dice.sample(rows, len(rows)), count, seed))
    assert len(chosen) == len(set(chosen)) <= count


@choices
@given(ROWS, st.integers(1, 6), SEEDS)
def test_a_row_more_replaces_at_most_one(choice: str, rows: Rows, count: int, seed: int) -> None:
    assume(count < len(rows))
    before, after = CHOICES[choice](rows[:-1], count, seed), CHOICES[choice](rows, count, seed)
    assert len(set(before) - set(after)) <= 1


@choices
@given(ROWS, st.integers(1, 6), st.integers(0, 6), SEEDS)
def test_a_smaller_choice_is_part_of_a_larger_one(choice: str, rows: Rows, count: int, more: int, seed: int) -> None:
    assume(count + more <= len(rows))
    small, large = CHOICES[choice](rows, count, seed), CHOICES[choice](rows, count + more, seed)
    assert set(small) <= set(large)


@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.integers(1, 3), st.floats(0, 3), SEEDS)
def test_a_weight_copies_every_row_as_often_or_once_more(ids: list[str], whole: int, weight: float, seed: int) -> None:
    counts = np.bincount(apply_weight(ids, weight, seed), minlength=len(ids))
    assert (
        set(counts.tolist()) <= {int(weight), int(weight) + 1} and abs(counts.sum() - weight * len(ids)) <= 0.5 + 1e-9
    )
    assert apply_weight(ids, whole, seed).tolist() == list(range(len(ids))) * whole


ITEMS = st.lists(st.tuples(IDS, st.integers(1, 5)), min_size=1, max_size=10, unique=True)


@given(ITEMS, st.text(max_size=8), DICE)
def test_pairs_are_rated_in_one_order_and_each_conversation_once_before_another_turn(
    items: list[tuple[str, int]], seed: str, dice: random.Random
) -> None:
    pairs = [Pair(f"{group}:{turn}", [], "", {}, group) for group, turn in items]
    order = in_order(pairs, seed)
    assert order == in_order(dice.sample(pairs, len(pairs)), seed)
    groups = [pair.item.rpartition(":")[0] for pair in order]
    rounds = [groups[:at].count(group) for at, group in enumerate(groups)]
    assert rounds == sorted(rounds)


def chosen_things() -> str:
    """Return everything that a seed or a hash chooses, as JSON."""
    from ft_pipeline.search.sampling import next_values

    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:8] for number in range(40)]
    rows = [row(name, f"{at % 3}.jsonl", "train" if at % 4 else "test") for at, name in enumerate(ids)]
    found: dict[str, Any] = {name: choose(rows, 7, 3) for name, choose in CHOICES.items()}
    pairs = [Pair(f"{name}:{at % 2}", [], "", {}, name) for at, name in enumerate(ids)]
    found["pairs that are rated"] = [pair.item for pair in in_order(pairs, "s")]
    found["items that are judged"] = sorted(ids, key=hash_of_item)
    agreed = agreement({name: [-1.0, at % 3 - 1.0, 1.0] for at, name in enumerate(ids)})
    found["agreement"] = agreed and asdict(agreed)
    keys = keys_of(FORMATS["text"], [(f"Where is my order {number} of the kettle?",) for number in range(9)])
    found["keys"] = [getattr(keys, name).tolist() for name in vars(keys)]
    found["splits"] = place_in_splits(keys.group, DataSettings(validation_share=0.3, test_share=0.3)).tolist()
    space = [
        Dimension("training.learning_rate", low=1e-5, high=1e-3, log=True),
        Dimension("lora.r", choices=(4, 8, 16)),
    ]
    found["values of a search"] = next_values(space, [], 5, None)
    return json.dumps(found)


def test_a_seed_gives_the_same_bytes_in_another_process() -> None:
    """What depends on the order of a set differs between processes."""
    code = f"from {__name__} import chosen_things; print(chosen_things())"
    command, seeded = [sys.executable, "-c", code], {**os.environ, "PYTHONHASHSEED": "1"}
    found = subprocess.run(command, env=seeded, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert found.splitlines()[-1] == chosen_things()


@settings(max_examples=30)
@given(ROWS, SEEDS, SEEDS)
def test_another_seed_orders_the_same_rows(rows: Rows, seed: int, other: int) -> None:
    one, two = ([entry["id"] for entry in single_turn_rows(rows, 0, number)] for number in (seed, other))
    assert sorted(one) == sorted(two) == sorted(entry["id"] for entry in rows if entry["split"] == "train")
    assert {hash_of_item(name) for name in one} == {hash_of_item(name) for name in two}
