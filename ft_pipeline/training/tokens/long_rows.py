"""Rows that are longer than `max_length`: left out or cut, as the experiment chooses (`training.long_rows`).

A row is cut at its end. So every token that is trained has the context that it has in the whole row, and an answer that
was cut off has no stop token. A cut never goes through a call of a tool. A row of which no answer remains is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.training.tokens.chat_tokens import MASKED, Encoded
from ft_pipeline.training.tokens.token_audit import Row

CODE = "over_length"
"""Reason code of the rows that are left out."""

Choice = Literal["fail", "skip", "truncate"]
_Key = tuple[str, str, int]
"""(table, file, row)."""


@dataclass
class _Account:
    """What happened to one row of a table. A weight may use it several times; it counts once."""

    tokens: int
    """Length of its longest text before the cut."""
    lost: int
    """Tokens that were cut off, of all its texts."""
    is_left_out: bool


class LongRows:
    """Applies the choice to batches of rows, and counts what it does. The same batch may be given several times."""

    def __init__(self, choice: Choice, max_length: int) -> None:
        """max_length: in tokens."""
        self._choice, self._max_length = choice, max_length
        self._accounts: dict[_Key, _Account] = {}
        self._kept_splits: set[str] = set()

    def apply(self, made: Sequence[Sequence[Row]]) -> tuple[list[list[Row]], list[list[Row]]]:
        """Return the rows that are kept, first as they were made and then as they train. Their numbers are equal.

        made: the rows of one source; of pairs, the preferred and the rejected answers. All texts of a row of a table
        are in the same batch.
        """
        if self._choice == "fail":
            same = [list(rows) for rows in made]
            return same, same
        whole: list[tuple[Row, ...]] = []
        cut: list[tuple[Row, ...]] = []
        for key, group in groupby(zip(*made, strict=True), key=lambda sides: _key(sides[0])):
            texts = list(group)
            results = [self._cut(sides) for sides in texts]
            if self._choice == "skip" and None in results:
                results = [None for _ in results]
            self._count(key, texts, results)
            for sides, result in zip(texts, results, strict=True):
                if result is not None:
                    self._kept_splits.add(result[0].split)
                    whole.append(sides)
                    cut.append(result)
        return _by_side(whole, len(made)), _by_side(cut, len(made))

    def left_out(self) -> list[dict[str, Any]]:
        """Return the rows that are left out: {table, file, row, code, tokens}."""
        return [
            {"table": table, "file": file, "row": row, "code": CODE, "tokens": account.tokens}
            for (table, file, row), account in self._accounts.items()
            if account.is_left_out
        ]

    def report(self) -> dict[str, Any]:
        """Return the part of the audit on long rows. It is empty if they fail the audit, as in older versions.

        Each entry of `cut` is {table, file, row, tokens, lost_tokens}.
        """
        if self._choice == "fail":
            return {}
        cut: list[dict[str, Any]] = [
            {"table": table, "file": file, "row": row, "tokens": account.tokens, "lost_tokens": account.lost}
            for (table, file, row), account in self._accounts.items()
            if account.lost and not account.is_left_out
        ]
        left_out, lost = len(self.left_out()), sum(entry["lost_tokens"] for entry in cut)
        message = ""
        if left_out or cut:
            message = (
                f"of the rows longer than {self._max_length:,} tokens, {left_out:,} are left out and {len(cut):,} are "
                f"cut by {lost:,} tokens"
            )
        return {
            "long_rows": {
                "choice": self._choice,
                "left_out": left_out,
                "lost_tokens": lost,
                "cut": cut,
                "message": message,
            }
        }

    def require_rows(self) -> None:
        """Raise UserError if rows were left out and a split has none."""
        for split, name in (("train", "training"), ("validation", "validation")):
            if self.left_out() and split not in self._kept_splits:
                raise UserError(
                    f"No {name} row is left: {len(self.left_out())} rows are longer than {self._max_length} tokens. "
                    "Raise training.max_length."
                )

    def _cut(self, sides: tuple[Row, ...]) -> tuple[Row, ...] | None:
        """Return a text, or both answers of a pair, such that it fits. None if it is too long or nothing remains."""
        if all(side.tokens <= self._max_length for side in sides):
            return sides
        if self._choice == "skip":
            return None
        # The other answer of a pair loses its stop token too. Otherwise stopping would be learned from one side alone:
        # as what marks a preferred answer, or a rejected one.
        cut = tuple(_shortened(side, min(self._end(side), side.tokens - 1)) for side in sides)
        is_pair_of_equals = len(cut) == 2 and cut[0].trained == cut[1].trained
        return cut if all(side.trained for side in cut) and not is_pair_of_equals else None

    def _end(self, row: Row) -> int:
        """Return the number of tokens to keep of a row, so that it ends with a trained token; 0 if it has none."""
        labels = row.encoded.labels
        end = min(self._max_length, len(labels))
        if row.calls and end < len(labels) and labels[end] != MASKED:
            while end and labels[end - 1] != MASKED:
                end -= 1
        while end and labels[end - 1] == MASKED:
            end -= 1
        return end

    def _count(self, key: _Key, texts: Sequence[tuple[Row, ...]], results: Sequence[tuple[Row, ...] | None]) -> None:
        by_text = {
            tuple(side.rendered.text for side in sides): _tokens(sides) - _tokens(result or ())
            for sides, result in zip(texts, results, strict=True)
        }
        if lost := sum(by_text.values()):
            longest = max(side.tokens for sides in texts for side in sides)
            self._accounts[key] = _Account(longest, lost, is_left_out=all(result is None for result in results))


def _key(row: Row) -> _Key:
    return row.table, row.file, row.row


def _by_side(texts: Sequence[tuple[Row, ...]], sides: int) -> list[list[Row]]:
    return [[text[side] for text in texts] for side in range(sides)]


def _tokens(sides: Sequence[Row]) -> int:
    return sum(side.tokens for side in sides)


def _shortened(row: Row, length: int) -> Row:
    return replace(row, encoded=Encoded(row.encoded.input_ids[:length], row.encoded.labels[:length]))
