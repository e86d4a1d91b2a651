"""Duplicates and contradicting pairs among the accepted rows of all files of a table, in the order of file names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.accounts import RowWarning
from ft_pipeline.tables.dedup.keys import Keys, compared_parts, groups_of, merge
from ft_pipeline.tables.dedup.matching import TRAIN_RANK, DuplicateMatches, find_duplicates, first_index
from ft_pipeline.tables.dedup.near_duplicates import ReadShingles, Spill
from ft_pipeline.tables.file_result import FileResult, StoredRows
from ft_pipeline.tables.formats.base import Format
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES
from ft_pipeline.tables.splits import place_in_splits
from ft_pipeline.tables.traces.threads import Threads

CODES = ("", "duplicate", "near_duplicate", "contradicting_pair", "earlier_turns", "contradicting_feedback")
"""The reason codes that this module sets, by their number in DuplicateFlags.code."""
WORDS = {
    "duplicate": "equal to {origin}, which is kept",
    "near_duplicate": "nearly equal to {origin}, which is kept",
    "earlier_turns": "the beginning of {origin}, which has all its turns",
    "contradicting_feedback": "rates the answer of {origin} the other way round",
    "contradicting_pair": "prefers the answer that {origin} rejects; decide for one, and remove the other",
}
"""The message of each code. `origin` is the row that the other one duplicates or contradicts."""
SHOWN_CHARS = 80
"""Length to which a text is shortened that many rows repeat."""
MANY_DUPLICATES = 0.05
"""Share of the rows of a file from which its duplicates are worth a warning."""


@dataclass
class DuplicateFlags:
    """One entry per accepted row of all files, in the order of the files."""

    code: np.ndarray
    """uint8: an index into CODES; 0 if the row is kept."""
    of: np.ndarray
    """int64: the position of the row that it duplicates or contradicts, or -1."""
    starts: list[int]
    """The position of each file's first row. The last entry is the total number of rows."""
    files: list[FileResult]
    keys: Keys

    def origin(self, position: int) -> str:
        """Return the origin of the row at `position`, as `file:row`."""
        index = int(np.searchsorted(self.starts, position, side="right")) - 1
        return f"{self.files[index].source.name}:{self.files[index].rows[position - self.starts[index]]}"

    def of_file(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (code, of) for the rows of one file."""
        file_rows = slice(self.starts[index], self.starts[index + 1])
        return self.code[file_rows], self.of[file_rows]


def flag_duplicates(row_format: Format, files: list[FileResult], shares: DataSettings | None = None) -> DuplicateFlags:
    """Flag duplicates and contradicting pairs among the accepted rows.

    shares: of the splits; held-out rows are kept rather than training rows. None: the first row is always kept.

    Rows of golden test files are compared only with each other. If a training row duplicates a golden row, the
    training row must be removed later, and the golden row must stay.
    """
    starts = np.concatenate([[0], np.cumsum([len(file.rows) for file in files])]).astype(np.int64)
    keys = merge([file.keys for file in files])
    flags = DuplicateFlags(np.zeros(len(keys), np.uint8), np.full(len(keys), -1), starts.tolist(), files, keys)
    golden = _per_row(files, [file.account.split == "test" for file in files])
    ranks = None if shares is None else TRAIN_RANK - place_in_splits(groups_of(keys, shares), shares)
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(file.rows) for file in files])
    stored = [file.stored for file in files]
    if row_format.has_threads:
        _mark_earlier_turns(flags, stored)
    longest = flags.code == 0
    for rows in (np.flatnonzero(~golden & longest), np.flatnonzero(golden & longest)):
        if len(rows):
            read: ReadShingles = partial(_read_some, row_format, stored, rows)
            matches = find_duplicates(
                keys if len(rows) == len(keys) else keys.take(rows),
                read,
                None if ranks is None else ranks[rows],
                numbers[rows],
            )
            _mark_copies(flags, rows, matches)
    pairs = np.concatenate([file.pairs for file in files]) if files else np.empty((0, 2))
    _mark_contradictions(flags, pairs, CODES.index(row_format.contradiction))
    for code in CODES[1:]:
        allowed = _per_row(files, [code in file.sidecar.allow for file in files])
        flags.code[allowed & (flags.code == CODES.index(code))] = 0
    flags.of[flags.code == 0] = -1
    return flags


def _mark_earlier_turns(flags: DuplicateFlags, files: Sequence[StoredRows]) -> None:
    """Flag each row whose turns another row begins with: the longest conversation of a thread stays."""
    threads = Threads()
    for file in files:
        for batch in file.row_batches():
            for messages in batch["messages"].to_pylist():
                threads.add(messages)
    longer = threads.longer()
    is_earlier = longer >= 0
    flags.code[is_earlier], flags.of[is_earlier] = CODES.index("earlier_turns"), longer[is_earlier]


def _read_some(
    row_format: Format, files: Sequence[StoredRows], rows: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, ...]:
    return read_shingles(row_format, files, rows[positions])


def read_shingles(row_format: Format, files: Sequence[StoredRows], rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the compared parts (dedup.keys) of the accepted rows at these positions, which ascend. The positions count
    the rows of all files. Their texts are read again."""
    shingles, lengths, answers, done = Spill(), [], [], 0
    for file in files:
        last = done + file.count
        if np.searchsorted(rows, done) == np.searchsorted(rows, last):
            done = last
            continue
        for batch in file.row_batches():
            first, end = np.searchsorted(rows, [done, done + batch.num_rows])
            if end > first:
                some = batch.take(pa.array(rows[first:end] - done))
                columns = {name: some[name] for name in row_format.column_names}
                part, *of_rows = compared_parts(row_format.comparison_texts(columns))
                shingles.append(part)
                lengths.append(of_rows[0])
                answers.append(of_rows[1])
            done += batch.num_rows
    return shingles.read(), np.concatenate(lengths), np.concatenate(answers)


def _per_row(files: list[FileResult], values: list[bool]) -> np.ndarray:
    """Return a value per row, from a value per file."""
    return np.repeat(np.array(values, dtype=bool), [len(file.rows) for file in files])


def _mark_copies(flags: DuplicateFlags, rows: np.ndarray, matches: DuplicateMatches) -> None:
    is_copy = ~matches.kept
    flags.of[rows[is_copy]] = rows[matches.of[is_copy]]
    exact, near = CODES.index("duplicate"), CODES.index("near_duplicate")
    flags.code[rows[is_copy]] = np.where(matches.exact[is_copy], exact, near)


def _mark_contradictions(flags: DuplicateFlags, pairs: np.ndarray, code: int) -> None:
    """Flag each kept pair that reverses an earlier kept pair with the code, an index into CODES."""
    earlier: dict[int, int] = {}
    for position, (pair, reverse) in enumerate(pairs.tolist()):
        if flags.code[position]:
            continue
        if reverse in earlier:
            flags.code[position], flags.of[position] = code, earlier[reverse]
        else:
            earlier.setdefault(pair, position)


def fill_accounts(flags: DuplicateFlags) -> None:
    """Set accepted, quarantined, duplicates and reasons in the accounts of the files."""
    for index, file in enumerate(flags.files):
        reasons = {code: list(rows) for code, rows in file.reasons.items()}
        codes, _ = flags.of_file(index)
        for code_number in range(1, len(CODES)):
            if (rows := file.rows[codes == code_number]).size:
                reasons.setdefault(CODES[code_number], []).extend(rows.tolist())
        account = file.account
        account.reasons = {code: sorted(rows) for code, rows in sorted(reasons.items())}
        account.duplicates = sum(len(rows) for code, rows in reasons.items() if code in DUPLICATE_CODES)
        account.quarantined = sum(len(rows) for code, rows in reasons.items() if code not in DUPLICATE_CODES)
        account.accepted = int((codes == 0).sum())


def duplicate_warnings(row_format: Format, flags: DuplicateFlags) -> Iterator[RowWarning]:
    """Yield a warning per file of which many rows are set aside as duplicates. Read after fill_accounts."""
    for index, file in enumerate(flags.files):
        of_code = {code: file.account.reasons.get(code, []) for code in ("duplicate", "near_duplicate")}
        rows, read = sorted(chain(*of_code.values())), file.account.read
        if len(rows) > MANY_DUPLICATES * read:
            near = len(of_code["near_duplicate"])
            message = (
                f"{len(rows):,} of {read:,} rows are set aside as duplicates, {near:,} of them near ones"
                f"{_most_copied(row_format, flags, index)}; look at "
                f"some, and put `allow: [{'near_duplicate' if near else 'duplicate'}]` "
                "into the file's sidecar if they should stay"
            )
            yield RowWarning("many_duplicates", message, rows, file.source.name)


def _most_copied(row_format: Format, flags: DuplicateFlags, index: int) -> str:
    """Return the text that most duplicates of a file share, as words of a warning; empty if no two share one."""
    codes, originals = flags.of_file(index)
    is_copy = np.isin(codes, [CODES.index("duplicate"), CODES.index("near_duplicate")])
    positions, counts = np.unique(originals[is_copy], return_counts=True)
    if not len(counts) or counts.max() < 2:
        return ""
    position = int(positions[counts.argmax()])
    owner = int(np.searchsorted(flags.starts, position, side="right")) - 1
    done = flags.starts[owner]
    for batch in flags.files[owner].stored.row_batches():
        if position < done + batch.num_rows:
            row = batch.take(pa.array([position - done]))
            views = row_format.comparison_texts({name: row[name] for name in row_format.column_names})
            text = " ".join(f"{views.prompts[0].as_py()} {views.answers[0].as_py()}".replace("\x1f", " ").split())
            shown = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
            return f' ({int(counts.max()):,} of them repeat {flags.origin(position)}: "{shown}")'
        done += batch.num_rows
    return ""


def conflicts(prompt: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Return the positions of rows whose prompt also has other answers, ascending.

    Both arrays are keys of normalized texts, one per row.
    """
    first_prompt = first_index(prompt)
    differs = answer != answer[first_prompt]
    has_other_answers = np.zeros(len(prompt), dtype=bool)
    has_other_answers[first_prompt[differs]] = True
    return np.flatnonzero(has_other_answers[first_prompt])


def conflict_warnings(flags: DuplicateFlags) -> Iterator[RowWarning]:
    """Yield a warning per file with questions that other rows answer differently."""
    kept = np.flatnonzero(flags.code == 0)
    rows = kept[conflicts(flags.keys.prompt[kept], flags.keys.answer[kept])]
    for index, file in enumerate(flags.files):
        conflicting = rows[(rows >= flags.starts[index]) & (rows < flags.starts[index + 1])] - flags.starts[index]
        if conflicting.size:
            message = (
                f"{conflicting.size:,} row(s) ask a question that other rows answer differently; they stay in one split"
            )
            yield RowWarning("conflicting_answers", message, file.rows[conflicting].tolist(), file.source.name)
