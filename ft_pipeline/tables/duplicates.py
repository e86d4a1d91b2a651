"""Which of the accepted rows of a table stay: copies and contradictions across all its files, in name order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ft_pipeline.tables.accounts import RowWarning
from ft_pipeline.tables.dedup.keys import Keys, merge
from ft_pipeline.tables.dedup.minhash import DuplicateMatches, find_duplicates, first_index
from ft_pipeline.tables.file_result import FileResult
from ft_pipeline.tables.reason_codes import DUPLICATE_CODES

CODES = ("", "duplicate", "near_duplicate", "contradicting_pair")
WORDS = {
    "duplicate": "equal to {origin}, which is kept",
    "near_duplicate": "nearly equal to {origin}, which is kept",
    "contradicting_pair": "prefers the answer that {origin} rejects; decide for one, and remove the other",
}


@dataclass
class DuplicateFlags:
    """For every accepted row of all files, one after the other."""

    code: np.ndarray
    """uint8, an index of CODES; 0 stays."""
    of: np.ndarray
    """int64: the position of the row it copies or contradicts, or -1."""
    starts: list[int]
    """Where each file's rows begin; one more entry at the end."""
    files: list[FileResult]
    keys: Keys

    def origin(self, position: int) -> str:
        """file:row of a row by its position."""
        at = int(np.searchsorted(self.starts, position, side="right")) - 1
        return f"{self.files[at].source.name}:{self.files[at].rows[position - self.starts[at]]}"

    def of_file(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """(code, of) of the rows of one file."""
        part = slice(self.starts[at], self.starts[at + 1])
        return self.code[part], self.of[part]


def flag_duplicates(files: list[FileResult], shingles: np.ndarray) -> DuplicateFlags:
    """Judge the accepted rows of all files; `shingles` are those of all of them.

    Golden test files are held against each other only: what copies them in a training file must leave training, not
    the test.
    """
    starts = np.concatenate([[0], np.cumsum([len(file.rows) for file in files])]).astype(np.int64)
    keys = merge([file.keys for file in files], shingles)
    verdict = DuplicateFlags(np.zeros(len(keys), np.uint8), np.full(len(keys), -1), starts.tolist(), files, keys)
    golden = _per_row(files, [file.account.split == "test" for file in files])
    for rows in (np.flatnonzero(~golden), np.flatnonzero(golden)):
        if len(rows):
            copies = find_duplicates(keys if len(rows) == len(keys) else keys.take(rows))
            _mark_copies(verdict, rows, copies)
    _mark_contradictions(verdict, np.concatenate([file.pairs for file in files]) if files else np.empty((0, 2)))
    for code in CODES[1:]:
        allowed = _per_row(files, [code in file.sidecar.allow for file in files])
        verdict.code[allowed & (verdict.code == CODES.index(code))] = 0
    verdict.of[verdict.code == 0] = -1
    return verdict


def _per_row(files: list[FileResult], values: list[bool]) -> np.ndarray:
    return np.repeat(np.array(values, dtype=bool), [len(file.rows) for file in files])


def _mark_copies(verdict: DuplicateFlags, rows: np.ndarray, copies: DuplicateMatches) -> None:
    copied = ~copies.kept
    verdict.of[rows[copied]] = rows[copies.of[copied]]
    verdict.code[rows[copied]] = np.where(copies.exact[copied], CODES.index("duplicate"), CODES.index("near_duplicate"))


def _mark_contradictions(verdict: DuplicateFlags, pairs: np.ndarray) -> None:
    """A kept pair whose reverse stands in an earlier kept pair."""
    earlier: dict[int, int] = {}
    for position, (pair, reverse) in enumerate(pairs.tolist()):
        if verdict.code[position]:
            continue
        if reverse in earlier:
            verdict.code[position], verdict.of[position] = CODES.index("contradicting_pair"), earlier[reverse]
        else:
            earlier.setdefault(pair, position)


def fill_accounts(verdict: DuplicateFlags) -> None:
    """Fill in the accounts of the files: accepted, quarantined, duplicates, reasons."""
    for at, file in enumerate(verdict.files):
        reasons = {code: list(rows) for code, rows in file.reasons.items()}
        codes, _ = verdict.of_file(at)
        for number in range(1, len(CODES)):
            if (rows := file.rows[codes == number]).size:
                reasons.setdefault(CODES[number], []).extend(rows.tolist())
        account = file.account
        account.reasons = {code: sorted(rows) for code, rows in sorted(reasons.items())}
        account.duplicates = sum(len(rows) for code, rows in reasons.items() if code in DUPLICATE_CODES)
        account.quarantined = sum(len(rows) for code, rows in reasons.items() if code not in DUPLICATE_CODES)
        account.accepted = int((codes == 0).sum())


def conflicts(prompt: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Positions of rows whose prompt has other answers too (keys of the normalised texts), ascending."""
    first_prompt = first_index(prompt)
    differs = answer != answer[first_prompt]
    groups = np.zeros(len(prompt), dtype=bool)
    groups[first_prompt[differs]] = True
    return np.flatnonzero(groups[first_prompt])


def conflict_warnings(verdict: DuplicateFlags) -> Iterator[RowWarning]:
    """One warning per file that holds a question with several answers."""
    kept = np.flatnonzero(verdict.code == 0)
    rows = kept[conflicts(verdict.keys.prompt[kept], verdict.keys.answer[kept])]
    for at, file in enumerate(verdict.files):
        mine = rows[(rows >= verdict.starts[at]) & (rows < verdict.starts[at + 1])] - verdict.starts[at]
        if mine.size:
            message = f"{mine.size:,} row(s) ask a question that other rows answer differently; they stay in one split"
            yield RowWarning("conflicting_answers", message, file.rows[mine].tolist(), file.source.name)
