"""Assign each conversation to a split, or set it aside with a reason.

The split depends only on the group (see splits.py), so that new rows never move existing rows. What is near a held-out
row, or contains one of its turns, is not trained on.
"""

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.project import DataSettings
from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.near_duplicates import find_near
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.held_out import SuiteTexts, common_sequences, search_messages, turns_of_rows
from ft_pipeline.tables.leaks import Found, HeldOutTurns, LeakIndex
from ft_pipeline.tables.splits import SPLITS, TEST, TRAIN, VALIDATION, place_in_splits

CODES = ("", "duplicate", "near_duplicate", "train_test_overlap")
DUPLICATE, NEAR_DUPLICATE, OVERLAP = 1, 2, 3
_GOLDEN, _TEST, _VALIDATION, _TRAIN = range(4)
"""Ranks: a row that is near a row of a lower rank is set aside."""


@dataclass
class SplitAssignment:
    """One entry per row of ConversationRows."""

    code: np.ndarray
    """uint8: an index into CODES; 0 if the row is kept."""
    split: np.ndarray
    """uint8: an index into SPLITS."""
    notes: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """Position → (message, origin of the row that it duplicates or is near to), for rows that are set aside."""
    common: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    """Sequences of words that show nothing, because many training rows have them (held_out.common_sequences)."""

    def set_aside(self, position: int, code: int, message: str, copy_of: str | None) -> None:
        """Record that a row is set aside, and why."""
        self.code[position] = code
        self.notes[int(position)] = (message, copy_of)


def assign_splits(rows: ConversationRows, settings: DataSettings, suite: SuiteTexts) -> SplitAssignment:
    """Split by group; set aside duplicates across tables, and whatever shows a held-out row or a text of the suites."""
    assignment = SplitAssignment(np.zeros(len(rows), np.uint8), _splits(rows, settings))
    ranks = np.select(
        [rows.golden, assignment.split == TEST, assignment.split == VALIDATION], [_GOLDEN, _TEST, _VALIDATION], _TRAIN
    ).astype(np.uint8)
    if len(np.unique(rows.table)) > 1:
        _drop_equal_across_tables(rows, ranks, assignment)
    _drop_prompts_of_golden_rows(rows, assignment)
    if not rows.are_compared:
        _drop_near(rows, ranks, assignment)
    _drop_leaks(rows, ranks, assignment, suite)
    return assignment


def _splits(rows: ConversationRows, settings: DataSettings) -> np.ndarray:
    """Return the split of each row. Golden test files are the whole test split, unless the project adds them to it."""
    splits = place_in_splits(rows.keys.group, settings)
    if rows.golden.any() and settings.golden_test == "only":
        splits[splits == TEST] = TRAIN
    splits[rows.golden] = TEST
    return splits


def _drop_equal_across_tables(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment) -> None:
    """Set aside rows that equal a row of an earlier table. Golden rows are compared only with each other.

    Held-out rows are only dropped for equal ones: no near row that is added to another table can take their place.
    """
    positions = np.arange(len(rows))
    golden = rows.golden.astype(np.uint64)
    keep_apart = np.where((ranks == _TEST) | (ranks == _VALIDATION), rows.table.astype(np.uint64) + np.uint64(1), 0)
    first_equal = first_index(mix(rows.keys.exact ^ golden * PLACES[0]))
    first_normal = first_index(mix(rows.keys.normal ^ golden * PLACES[0] ^ keep_apart.astype(np.uint64) * PLACES[1]))
    for first, code, relation in (
        (first_equal, DUPLICATE, "equal to"),
        (first_normal, NEAR_DUPLICATE, "nearly equal to"),
    ):
        is_copy = (first < positions) & (rows.table[first] != rows.table) & (assignment.code == 0)
        for position in np.flatnonzero(is_copy).tolist():
            origin = rows.origin(first[position])
            assignment.set_aside(position, code, f"{relation} {origin}", origin)


def _drop_prompts_of_golden_rows(rows: ConversationRows, assignment: SplitAssignment) -> None:
    """Set aside the other rows that have the prompt of a golden row."""
    golden = np.flatnonzero(rows.golden)
    if not golden.size:
        return
    order = np.concatenate([golden, np.flatnonzero(~rows.golden)])
    first = order[first_index(rows.keys.group[order, 1])]
    for position, original in zip(order[len(golden) :].tolist(), first[len(golden) :].tolist(), strict=True):
        if rows.golden[original] and assignment.code[position] == 0:
            origin = rows.origin(original)
            assignment.set_aside(position, OVERLAP, f"asks the same as the test row {origin}", origin)


def _drop_near(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment) -> None:
    """Set aside rows near a row of a lower rank, and training rows near one of another table."""

    def may_replace(kept: np.ndarray, row: int) -> np.ndarray:
        if ranks[row] == _TRAIN:
            return (ranks[kept] < _TRAIN) | (rows.table[kept] != rows.table[row])
        return ranks[kept] < ranks[row]

    stays = np.flatnonzero(assignment.code == 0)
    order = stays[np.argsort(ranks[stays], kind="stable")]
    for position, original in find_near(rows.keys, order, rows.read_shingles, may_replace).items():
        origin = rows.origin(original)
        if ranks[original] < ranks[position]:
            split = SPLITS[assignment.split[original]]
            assignment.set_aside(position, OVERLAP, f"near the {split} row {origin}", origin)
        else:
            assignment.set_aside(position, NEAR_DUPLICATE, f"nearly equal to {origin}", origin)


def _drop_leaks(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment, suite: SuiteTexts) -> None:
    """Set aside rows that contain a turn of a row of a lower rank, or (training rows) a text of the suites."""
    stays = assignment.code == 0
    held_out = np.flatnonzero(stays & (ranks < _TRAIN))
    # Owners of turns: test rows, the texts of the suites, validation rows. So the lowest owner has the lowest rank.
    by_rank = held_out[np.argsort(ranks[held_out], kind="stable")]
    test_rows = int((ranks[held_out] < _VALIDATION).sum())
    numbers = np.full(len(rows), -1, dtype=np.int32)
    numbers[by_rank] = np.arange(len(by_rank)) + np.where(np.arange(len(by_rank)) < test_rows, 0, len(suite))
    index = _index(rows, held_out, numbers, suite.turns(test_rows))
    searched = np.flatnonzero(stays & (ranks > _TEST))
    found = _search_all(rows, searched, index)
    countable = (ranks[found.document] == _TRAIN) & (found.parts > 0)
    assignment.common = common_sequences(found.hash[countable], rows.keys.group[found.document[countable], 1])
    lowest = found.lowest_owners(found.leaks(assignment.common), len(rows))
    for position in np.flatnonzero(lowest >= 0).tolist():
        owner = int(lowest[position])
        if owner >= test_rows and ranks[position] != _TRAIN:
            continue  # a validation row may show another one, or a text of the suites
        if test_rows <= owner < test_rows + len(suite):
            assignment.set_aside(position, OVERLAP, f"contains {suite.name(owner - test_rows)}", None)
            continue
        original = by_rank[owner if owner < test_rows else owner - len(suite)]
        origin, split = rows.origin(original), SPLITS[assignment.split[original]]
        assignment.set_aside(position, OVERLAP, f"contains a turn of the {split} row {origin}", origin)


def _index(rows: ConversationRows, held_out: np.ndarray, numbers: np.ndarray, turns: HeldOutTurns) -> LeakIndex:
    """Return the index of the suites (`turns`) and of the held-out rows. numbers: the owner of each row."""
    collect = partial(_collect, numbers=numbers, with_templates=turns.with_templates)
    for _, part in rows.map_messages(held_out, collect):
        turns.extend(part)
    return LeakIndex(turns)


def _collect(messages: pa.Array, positions: np.ndarray, numbers: np.ndarray, with_templates: bool) -> HeldOutTurns:
    return turns_of_rows(messages, numbers[positions], with_templates)


def _search_all(rows: ConversationRows, searched: np.ndarray, index: LeakIndex) -> Found:
    """Return the findings in the rows at these positions. Their documents are positions."""
    batches = rows.map_messages(searched, partial(_search, index=index))
    return Found.join([_search_nothing(index), *(replace(found, document=at[found.document]) for at, found in batches)])


def _search_nothing(index: LeakIndex) -> Found:
    return search_messages(pa.array([], MESSAGES), index)


def _search(messages: pa.Array, positions: np.ndarray, index: LeakIndex) -> Found:
    return search_messages(messages, index)
