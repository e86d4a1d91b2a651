"""Rows that are added move no row that is there.

The rule: the prompt of a row decides its split (or its session, where its file names one). After any files are added or
rows appended, but no golden test file under `golden_test: only`, a row that was accepted

- is accepted in the same split,
- or is set aside, because it equals or nearly equals a row that is kept, or shows a held-out row. Test rows are set
  aside only for the first of these reasons.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.splits import SPLITS, place_in_splits
from ft_pipeline_tests.examples import examples
from ft_pipeline_tests.tables.helpers import build_chat_tables

SHARES = st.floats(0, 0.4)


def split_of(group: int, shares: DataSettings) -> str:
    return SPLITS[place_in_splits(np.array([[0, group]], dtype=np.uint64), shares)[0]]


@given(st.integers(0, 2**64 - 1), SHARES, SHARES, SHARES)
def test_a_larger_test_share_keeps_every_group_already_in_test(
    group: int, validation: float, test: float, smaller: float
) -> None:
    wide = DataSettings(validation_share=validation, test_share=test)
    narrow = DataSettings(validation_share=validation, test_share=min(test, smaller))
    if split_of(group, narrow) == "test":
        assert split_of(group, wide) == "test"


WORDS = st.sampled_from(["parcel", "kettle", "refund", "Monday", "order", "10400", "10401", "Anna", "Bert", "late"])
SENTENCES = st.lists(WORDS | st.text(max_size=4), min_size=1, max_size=12).map(" ".join)
PAIRS = st.tuples(SENTENCES, SENTENCES)
ALPACA = PAIRS.map(lambda pair: {"instruction": pair[0], "input": "", "output": f"Say {pair[1]}."})
SHAREGPT = st.lists(PAIRS, min_size=1, max_size=3).map(
    lambda pairs: {
        "conversations": [
            turn
            for question, answer in pairs
            for turn in ({"from": "human", "value": question}, {"from": "gpt", "value": f"Say {answer}."})
        ]
    }
)
FILE_NAMES = st.sampled_from(["a.jsonl", "c.jsonl", "z.jsonl"])
COPIES = ("duplicate", "near_duplicate")
Files = dict[str, list[dict[str, Any]]]
Place = tuple[str, str, int]
"""Table, file and number of a row."""


def files_of(rows: st.SearchStrategy[dict[str, Any]], least: int = 0) -> st.SearchStrategy[Files]:
    files = st.tuples(FILE_NAMES, st.lists(rows, min_size=1, max_size=6))
    return st.lists(files, min_size=least, max_size=2, unique_by=lambda file: file[0]).map(dict)


ALPACA_FILES, SHAREGPT_FILES, FIRST_FILES = files_of(ALPACA), files_of(SHAREGPT), files_of(ALPACA, 1)
"""Made once: hypothesis examines each new strategy for characters, for longer than a table takes."""


def joined(before: Files, added: Files) -> Files:
    """Return the files with those rows at their end."""
    return {name: before.get(name, []) + added.get(name, []) for name in sorted({**before, **added})}


@st.composite
def additions(draw: st.DrawFn) -> list[Files]:
    """Files of two tables, and what is added to them: any rows, and old ones with a word changed, or again."""
    files = [
        draw(FIRST_FILES),
        draw(SHAREGPT_FILES),
        draw(ALPACA_FILES),
        draw(SHAREGPT_FILES),
    ]
    old = [row for rows in files[0].values() for row in rows]
    for row in draw(st.lists(st.sampled_from(old), max_size=3)):
        changed = {**row, "output": draw(st.sampled_from([row["output"], row["output"] + " Thanks.", "No."]))}
        if draw(st.booleans()):
            files[2].setdefault(draw(FILE_NAMES), []).append(changed)
        else:
            turns = [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": changed["output"]}]
            files[3].setdefault(draw(FILE_NAMES), []).append({"conversations": turns})
    return files


def tables_of(alpaca: Files, sharegpt: Files) -> tuple[dict[Place, str], dict[Place, str]]:
    """Return the split of each accepted row, and why each other row is set aside."""
    with tempfile.TemporaryDirectory() as folder:
        _, rows, set_aside = build_chat_tables(Path(folder), alpaca, sharegpt)
        aside = {(row["table"], row["file"], row["row"]): row["code"] for row in set_aside}
        for table in ("alpaca", "sharegpt"):
            unused = pq.read_table(Path(folder) / table / "out" / "set_aside.parquet").to_pylist()
            aside |= {(table, row["file"], row["row"]): row["code"] for row in unused}
        return {(row["table"], row["file"], row["row"]): row["split"] for row in rows}, aside


@examples(4)
@given(additions())
def test_adding_rows_moves_no_row(files: list[Files]) -> None:
    alpaca, sharegpt, more_alpaca, more_sharegpt = files
    before, _ = tables_of(alpaca, sharegpt)
    after, aside = tables_of(joined(alpaca, more_alpaca), joined(sharegpt, more_sharegpt))
    for place, split in before.items():
        assert after.get(place, split) == split
        codes = (
            ("duplicate", "near_duplicate")
            if split == "test"
            else ("duplicate", "near_duplicate", "train_test_overlap")
        )
        assert place in after or aside[place] in codes


PROMPTS = st.lists(SENTENCES, min_size=1, max_size=8)


@examples(3)
@given(PROMPTS, st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_their_file_decides_a_split(prompts: list[str], dice: Any) -> None:
    rows = [{"instruction": prompt, "input": "", "output": f"Say {number}."} for number, prompt in enumerate(prompts)]
    mixed = dice.sample(rows, len(rows))
    at = dice.randint(0, len(rows))

    def splits(files: Files) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            _, found, _ = build_chat_tables(Path(folder), files)
            return {row["id"]: row["split"] for row in found}

    one, other = splits({"a.jsonl": rows}), splits({"b.jsonl": mixed[:at], "c.jsonl": mixed[at:]})
    assert all(one[name] == other[name] for name in one.keys() & other.keys())
