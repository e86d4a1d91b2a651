"""Assign each conversation to a split, or set it aside with a reason.

The split depends only on the group (see splits.py), so that new rows never move existing rows. What is near a held-out
row, or contains one of its turns, is not trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.clusters import Questions
from ft_pipeline.tables.conversation_rows import ConversationRows
from ft_pipeline.tables.dedup.hashes import PLACES, mix
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.dedup.near_duplicates import find_near
from ft_pipeline.tables.held_out import Findings, SuiteTexts, search_messages, turns_of_rows
from ft_pipeline.tables.leak_findings import Found
from ft_pipeline.tables.leaks import HeldOutTurns, LeakIndex
from ft_pipeline.tables.semantic import BLOCK_ROWS, SemanticSearch, texts_of
from ft_pipeline.tables.splits import SPLITS, TEST, TRAIN, VALIDATION, place_in_splits

CODES = ("", "duplicate", "near_duplicate", "train_test_overlap")
DUPLICATE, NEAR_DUPLICATE, OVERLAP = 1, 2, 3
_GOLDEN, _TEST, _VALIDATION, _TRAIN = range(4)
"""Ranks: a row that is near a row of a lower rank is set aside."""
_STEPS, _MAX_STEP = ((100_000, 1), (500_000, 2)), 4
"""(number of held-out rows up to which it holds, every how many windows of them are in the index): this bounds the
memory, about 1 KB per held-out row with all windows."""


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
    """Hashes of findings that show nothing, because many training rows have them (held_out.common_findings)."""

    def set_aside(self, position: int, code: int, message: str, copy_of: str | None) -> None:
        """Record that a row is set aside, and why."""
        self.code[position] = code
        self.notes[int(position)] = (message, copy_of)


@dataclass(frozen=True)
class _HeldOut:
    """What is held out, by number: test rows, the texts of the suites, validation rows."""

    rows: ConversationRows
    positions: np.ndarray
    """The positions of the held-out rows: test rows first."""
    test_rows: int
    suite: SuiteTexts

    @classmethod
    def of(cls, rows: ConversationRows, ranks: np.ndarray, stays: np.ndarray, suite: SuiteTexts) -> "_HeldOut":
        held_out = np.flatnonzero(stays & (ranks < _TRAIN))
        by_rank = held_out[np.argsort(ranks[held_out], kind="stable")]
        return cls(rows, by_rank, int((ranks[held_out] < _VALIDATION).sum()), suite)

    def numbers(self) -> np.ndarray:
        """Return the number of each row (int32), or -1."""
        numbers = np.full(len(self.rows), -1, dtype=np.int32)
        counted = np.arange(len(self.positions))
        numbers[self.positions] = counted + np.where(counted < self.test_rows, 0, len(self.suite))
        return numbers

    def is_hidden_from(self, rank: int, number: int) -> bool:
        """Whether a row of this rank must not show it. A validation row may show all but test rows."""
        return number < self.test_rows or rank == _TRAIN

    def name(self, number: int, splits: np.ndarray) -> tuple[str, str | None]:
        """Return its name, and the origin of a row."""
        if self.test_rows <= number < self.test_rows + len(self.suite):
            return self.suite.name(number - self.test_rows), None
        row = self.positions[number if number < self.test_rows else number - len(self.suite)]
        origin = self.rows.origin(row)
        return f"the {SPLITS[splits[row]]} row {origin}", origin


def assign_splits(
    rows: ConversationRows, settings: DataSettings, suite: SuiteTexts, semantic: SemanticSearch | None = None
) -> tuple[SplitAssignment, Questions]:
    """Split by group; set aside duplicates across tables, and whatever shows a held-out row or a text of the suites.
    Return the questions of the held-out rows, too, of which clusters are made.

    semantic: also set aside what means the same as a held-out row.
    """
    assignment = SplitAssignment(np.zeros(len(rows), np.uint8), _splits(rows, settings))
    ranks = np.select(
        [rows.golden, assignment.split == TEST, assignment.split == VALIDATION], [_GOLDEN, _TEST, _VALIDATION], _TRAIN
    ).astype(np.uint8)
    if len(np.unique(rows.table)) > 1:
        _drop_equal_across_tables(rows, ranks, assignment)
    _drop_prompts_of_golden_rows(rows, assignment)
    if not rows.are_compared:
        _drop_near(rows, ranks, assignment)
    questions = _drop_leaks(rows, ranks, assignment, suite)
    if semantic:
        _drop_paraphrases(rows, ranks, assignment, suite, semantic)
    return assignment, questions


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
            relation = "is in the group of" if rows.keys.has_own_group[position] else "asks the same as"
            assignment.set_aside(position, OVERLAP, f"{relation} the test row {origin}", origin)


def _drop_near(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment) -> None:
    """Set aside rows near a row of a lower rank, and training rows near one of another table."""

    def may_replace(kept: np.ndarray, row: int) -> np.ndarray:
        if ranks[row] == _TRAIN:
            return (ranks[kept] < _TRAIN) | (rows.table[kept] != rows.table[row])
        return (ranks[kept] < ranks[row]) & (ranks[row] > _TEST)  # a golden row takes no test row away

    stays = np.flatnonzero(assignment.code == 0)
    order = stays[np.argsort(ranks[stays], kind="stable")]
    for position, original in find_near(rows.keys, order, rows.read_shingles, may_replace).items():
        origin = rows.origin(original)
        if ranks[original] < ranks[position]:
            split = SPLITS[assignment.split[original]]
            assignment.set_aside(position, OVERLAP, f"near the {split} row {origin}", origin)
        else:
            assignment.set_aside(position, NEAR_DUPLICATE, f"nearly equal to {origin}", origin)


def _drop_leaks(rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment, suite: SuiteTexts) -> Questions:
    """Set aside rows that contain a turn of a row of a lower rank, or (training rows) a text of the suites. Return the
    questions of the held-out rows, which are read in the same pass."""
    stays = assignment.code == 0
    held_out = _HeldOut.of(rows, ranks, stays, suite)
    questions = Questions(rows, np.where(stays, assignment.split, TRAIN))
    index = _index(held_out, questions)
    findings = Findings(index, rows.keys.group[:, 1], ranks == _TRAIN)
    searched = np.flatnonzero(stays & (ranks > _TEST))
    for positions, found_in_batch in rows.map_messages(searched, partial(_search, index=index)):
        findings.add(found_in_batch.in_documents(positions))
    found, assignment.common = findings.result()
    index.mark_common(assignment.common)
    # The lowest number of those that a row shows has the lowest rank.
    lowest = index.lowest_owners(found, len(rows), with_copies=True)
    for position in np.flatnonzero(lowest >= 0).tolist():
        if held_out.is_hidden_from(ranks[position], lowest[position]):
            name, origin = held_out.name(lowest[position], assignment.split)
            assignment.set_aside(position, OVERLAP, f"contains {'a turn of ' if origin else ''}{name}", origin)
    return questions


def _index(held_out: _HeldOut, questions: Questions) -> LeakIndex:
    """Return the index of the suites and of the held-out rows, whose questions are also added to `questions`."""
    turns = held_out.suite.turns(held_out.test_rows)
    step = next((step for most, step in _STEPS if len(held_out.positions) <= most), _MAX_STEP)
    numbers = held_out.numbers()

    def collect(messages: pa.Array, positions: np.ndarray) -> tuple[HeldOutTurns, pa.Array]:
        of_batch = turns_of_rows(messages, numbers[positions], turns.with_templates, step)
        return of_batch, questions.read(messages, positions)

    for _, (part, texts) in held_out.rows.map_messages(np.sort(held_out.positions), collect):
        turns.extend(part)
        questions.add(texts)
    return LeakIndex(turns)


def _search(messages: pa.Array, positions: np.ndarray, index: LeakIndex) -> Found:
    return search_messages(messages, index)


def _drop_paraphrases(
    rows: ConversationRows, ranks: np.ndarray, assignment: SplitAssignment, suite: SuiteTexts, semantic: SemanticSearch
) -> None:
    """Set aside rows that mean the same as a row of a lower rank, or (training rows) as a text of the suites."""
    stays = assignment.code == 0
    held_out = _HeldOut.of(rows, ranks, stays, suite)
    vectors = _embed_held_out(held_out, semantic)
    for rank, hidden in ((_VALIDATION, vectors[: held_out.test_rows]), (_TRAIN, vectors)):
        for positions, part in _embed(rows, np.flatnonzero(stays & (ranks == rank)), semantic):
            numbers, similarities = semantic.nearest(part, hidden)
            for at in np.flatnonzero(similarities >= semantic.similarity).tolist():
                name, origin = held_out.name(numbers[at], assignment.split)
                message = f"means the same as {name} (similarity {similarities[at]:.2f})"
                assignment.set_aside(positions[at], OVERLAP, message, origin)


def _embed_held_out(held_out: _HeldOut, semantic: SemanticSearch) -> np.ndarray:
    """Return the vectors of what is held out, by number."""
    row_numbers, suite_texts = held_out.numbers(), held_out.suite.whole_texts()
    numbers = [held_out.test_rows + np.arange(len(suite_texts))] if suite_texts else []
    vectors = [semantic.embed(suite_texts)] if suite_texts else []
    for positions, part in _embed(held_out.rows, np.sort(held_out.positions), semantic):
        numbers.append(row_numbers[positions])
        vectors.append(part)
    if not vectors:
        return np.empty((0, 0), np.float32)
    return np.concatenate(vectors)[np.argsort(np.concatenate(numbers))]


def _embed(
    rows: ConversationRows, positions: np.ndarray, semantic: SemanticSearch
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (positions, vectors) of the rows at these positions, which ascend."""
    for messages, batch in rows.batches(positions):
        for begin in range(0, len(messages), BLOCK_ROWS):
            part = messages.slice(begin, BLOCK_ROWS)
            yield batch[begin : begin + BLOCK_ROWS], semantic.embed(texts_of(part))
