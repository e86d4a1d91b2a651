"""The token audit: checks that every row must pass before training, and statistics of the rows."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.tool_calls import Call, call_family, read_calls, same_calls, without_ending
from ft_pipeline.tables.reading.describe import shorten
from ft_pipeline.training.tokens.chat_tokens import MASKED, DroppedTurns, Encoded, Rendered
from ft_pipeline.training.tokens.reasoning_counts import NAMED_ROWS, ReasoningCounts

NAMED_DETAILS = 3
"""Number of faulty rows of which it says more."""


@dataclass(frozen=True)
class Row:
    """One training or validation row with its origin."""

    id: str
    source: str
    """`human`, `distilled`, `replay`, `preferred`, `rejected`, `up`, `down`, `prompt`, `text` or `teacher`."""
    split: str
    table: str
    """The table of the raw row, such as `alpaca` or `unlabelled`."""
    file: str
    row: int
    rendered: Rendered
    encoded: Encoded
    dropped: DroppedTurns | None = None
    """What the chat template left out. None for all texts of a conversation but the first, and for other rows."""
    calls: tuple[tuple[Call, ...], ...] = ()
    """The calls of tools in each trained turn; empty if no trained turn has any."""
    tools: str | None = None
    """The declared tools as JSON text, if `calls` are known."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the training data, by name (token_table.EXTRA_COLUMNS)."""

    @property
    def origin(self) -> str:
        return f"{self.file}:{self.row}"

    @property
    def tokens(self) -> int:
        return len(self.encoded.input_ids)

    @property
    def trained(self) -> list[int]:
        return [label for label in self.encoded.labels if label != MASKED]


class Check:
    """One check of the audit: the number of its faulty rows, and the first of them."""

    def __init__(self, passed_message: str, fault: str, advice: str = "") -> None:
        self._passed_message, self._fault, self._advice = passed_message, fault, advice
        self._count = 0
        self._first: list[str] = []
        self._details: list[str] = []

    def add(self, row: Row, detail: str = "") -> None:
        """Count a faulty row. `detail` says more of the first few."""
        self._count += 1
        if len(self._first) < NAMED_ROWS:
            self._first.append(row.origin)
        if detail and len(self._details) < NAMED_DETAILS:
            self._details.append(f"{row.origin} {detail}")

    def extend(self, other: "Check") -> None:
        """Count the faulty rows of the same check of other rows, which come after these."""
        self._count += other._count
        self._first = [*self._first, *other._first][:NAMED_ROWS]
        self._details = [*self._details, *other._details][:NAMED_DETAILS]

    def result(self) -> dict[str, Any]:
        """Return {passed, value, message}. The message is `passed_message`, or the number of faulty rows, the first of
        them and the advice."""
        if not self._count:
            return {"passed": True, "value": 0, "message": self._passed_message}
        rows = "1 row" if self._count == 1 else f"{self._count} rows"
        details = f" ({', '.join(self._details)})" if self._details else ""
        advice = f"; {self._advice}" if self._advice else ""
        message = f"{rows} {self._fault}{details} (first: {', '.join(self._first)}){advice}"
        return {"passed": False, "value": self._count, "message": message}


class AnswerChecks:
    """The checks of rows whose assistant turns are trained."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._stops = tokenizer, set(stop_token_ids(tokenizer))
        self._has_calls = False
        self._checks = {
            "every_turn_rendered": Check(
                "every rendered conversation contains the text of all its turns",
                "with a turn that the chat template omits",
                "choose a base_model whose template renders such turns, or remove them from the data",
            ),
            "every_row_trains": Check("every row has at least one trained token", "without a trained token"),
            "stop_token_trained": Check(
                "every assistant turn ends with a trained stop token",
                "with an assistant turn whose stop token is not trained",
                "the model would never learn to stop: use a chat template that writes a control token after each "
                "answer",
            ),
            "single_bos": Check("no row begins with two BOS tokens", "beginning with two BOS tokens"),
            "padding_never_trained": Check(
                "every label equals the token at its position; padding is added after the labels and is masked by "
                "position",
                "with a label that differs from the token at its position",
            ),
            "prompts_masked": Check(
                "the trained tokens of every row decode to exactly its trained turns",
                "whose trained tokens are not exactly the trained turns",
            ),
            "calls_read_back": Check(
                "every trained call of a tool reads back equal from its tokens",
                "with a trained call of a tool that does not read back equal",
                "choose a base_model whose chat template writes calls in a known way, or remove such calls from the "
                "data",
            ),
        }

    def add(self, rows: Sequence[Row]) -> None:
        """Check a batch of rows."""
        for row in rows:
            self._has_calls = self._has_calls or bool(row.calls)
            for name, detail in self._faults(row):
                self._checks[name].add(row, detail)

    def extend(self, other: "AnswerChecks") -> None:
        """Count the faulty rows of other rows, which come after these."""
        self._has_calls = self._has_calls or other._has_calls
        for name, check in self._checks.items():
            check.extend(other._checks[name])

    def results(self) -> dict[str, Any]:
        """Return the checks of all rows, by name. Without calls of tools there is no `calls_read_back`, so that the
        audit of other rows is the same as in older versions."""
        names = [name for name in self._checks if name != "calls_read_back" or self._has_calls]
        return {name: self._checks[name].result() for name in names}

    def _faults(self, row: Row) -> Iterator[tuple[str, str]]:
        """Yield (name of a check that the row fails, detail)."""
        bos, trained = self._tokenizer.bos_token_id, row.trained
        if row.dropped and row.dropped.turns:
            yield "every_turn_rendered", row.dropped.turns[0]
        if not trained:
            yield "every_row_trains", ""
        if not _ends_every_turn(row.encoded, self._stops):
            yield "stop_token_trained", ""
        if bos is not None and row.encoded.input_ids[:2] == [bos, bos]:
            yield "single_bos", ""
        if not _labels_match_tokens(row.encoded):
            yield "padding_never_trained", ""
        targets = _tokenize(self._tokenizer, row.rendered.targets)
        if _decode_without_spaces(self._tokenizer, trained) != _decode_without_spaces(self._tokenizer, targets):
            yield "prompts_masked", ""
        if row.calls and (detail := self._fault_in_calls(row)):
            yield "calls_read_back", detail

    def _fault_in_calls(self, row: Row) -> str:
        """Return what is wrong with the calls of a row as they are trained, or an empty text."""
        family = call_family(self._tokenizer)
        if family is None:
            return "cannot be checked, because the template's way to write calls is unknown"
        turns = [self._tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in _trained_turns(row.encoded)]
        if len(turns) != len(row.calls):
            return f"trains {len(turns)} turns instead of {len(row.calls)}"
        for turn, calls in zip(turns, row.calls, strict=True):
            text = without_ending(self._tokenizer, turn)
            if calls and not same_calls(read_calls(family, text, row.tools)[1], calls):
                return f"calls {calls[0]['name']!r}, but trains {shorten(text)}"
        return ""


def combine_checks(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Combine the checks of two kinds of rows that train together, by name. A check passes if both pass.

    A check that the second kind lacks is that of the first.
    """
    return {
        name: entry
        if name not in second
        else {
            "passed": entry["passed"] and second[name]["passed"],
            "value": entry["value"] + second[name]["value"],
            "message": f"{entry['message']}; {second[name]['message']}",
        }
        for name, entry in first.items()
    }


class TokenAudit:
    """Checks that all kinds of rows have, and counts of their tokens. Rows are added in batches, and are not kept."""

    def __init__(self, max_length: int, vocabulary: int, reasoning: str = "train") -> None:
        """max_length: in tokens. vocabulary: the number of rows of the model's embedding. reasoning: `data.reasoning`
        of the experiment."""
        self._max_length, self._vocabulary = max_length, vocabulary
        self._length_check = Check(
            f"no row is longer than the max_length of {max_length} tokens",
            f"longer than the max_length of {max_length} tokens",
            "raise training.max_length, or set training.long_rows to skip or truncate",
        )
        self._vocabulary_check = Check(
            f"every token id is below the model's vocabulary of {vocabulary}",
            f"with a token id outside the model's vocabulary of {vocabulary}",
            "choose a base_model that has an embedding for every token of its tokenizer",
        )
        self._over_length: list[dict[str, Any]] = []
        self._lengths, self._batch_rows = array("i"), array("i")
        self._ids: list[pa.Array] = []
        self._trained = self._split_by_turn = 0
        self._rows: dict[str, int] = {}
        self._reasoning = ReasoningCounts(reasoning)

    def add(self, rows: Sequence[Row]) -> None:
        """Check and count a batch of rows."""
        self._batch_rows.append(len(rows))
        self._ids.append(pa.array([row.id for row in rows], pa.large_string()))
        for row in rows:
            self._lengths.append(row.tokens)
            if row.tokens > self._max_length:
                self._length_check.add(row)
                entry = {"id": row.id, "file": row.file, "row": row.row, "tokens": row.tokens}
                self._over_length.append(entry)
            if max(row.encoded.input_ids, default=0) >= self._vocabulary:
                self._vocabulary_check.add(row)
            self._trained += len(row.trained)
            self._split_by_turn += row.rendered.split_by_turn
            name = f"{row.source}/{row.split}"
            self._rows[name] = self._rows.get(name, 0) + 1
            self._reasoning.add(row.dropped, row.origin)

    def extend(self, other: "TokenAudit") -> None:
        """Add the rows of another audit, which come after these."""
        self._length_check.extend(other._length_check)
        self._vocabulary_check.extend(other._vocabulary_check)
        self._over_length += other._over_length
        self._lengths += other._lengths
        self._batch_rows += other._batch_rows
        self._ids += other._ids
        self._trained += other._trained
        self._split_by_turn += other._split_by_turn
        for name, count in other._rows.items():
            self._rows[name] = self._rows.get(name, 0) + count
        self._reasoning.extend(other._reasoning)

    def median_row(self) -> tuple[int, int]:
        """Return (batch, position in it) of a row of median length; of those, by the order of their ids."""
        lengths = np.array(self._lengths)
        middle = len(lengths) // 2
        median = np.partition(lengths, middle)[middle]
        positions = np.flatnonzero(lengths == median)
        ids = pa.chunked_array(self._ids).take(pa.array(positions)).to_pylist()
        candidates = sorted(zip(ids, positions.tolist(), strict=True))
        _, position = candidates[middle - int((lengths < median).sum())]
        ends = np.cumsum(self._batch_rows)
        batch = int(np.searchsorted(ends, position, side="right"))
        return batch, position - int(ends[batch] - self._batch_rows[batch])

    def report(self, tokenizer: Any, checks: dict[str, Any], example: Row) -> dict[str, Any]:
        """Return the checks and counts of all rows. `checks` are those of their kind. `example`: the median_row.

        Each check is {passed, value, message}; `value` is the number of faulty rows. A failed check stops the training.
        """
        lengths = np.array(self._lengths)
        tokens = int(lengths.sum())
        counts, edges = np.histogram(lengths, bins=min(24, max(1, int(lengths.max() - lengths.min()))))
        return {
            "checks": {
                "no_over_length": self._length_check.result(),
                **checks,
                "ids_in_vocabulary": self._vocabulary_check.result(),
            },
            "lengths": {f"p{p}": int(np.percentile(lengths, p)) for p in (50, 90, 99)} | {"max": int(lengths.max())},
            "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
            "rows": self._rows,
            "tokens": tokens,
            "trained_tokens": self._trained,
            "trained_share": self._trained / tokens,
            "split_by_turn": self._split_by_turn,
            "reasoning": self._reasoning.result(tokenizer),
            "example": _example(tokenizer, example),
            "over_length": self._over_length,
        }


def _trained_turns(encoded: Encoded) -> list[list[int]]:
    """Return the runs of trained tokens, each of which is an assistant turn."""
    runs = groupby(encoded.labels, key=lambda label: label != MASKED)
    return [list(labels) for is_trained, labels in runs if is_trained]


def _ends_every_turn(encoded: Encoded, stops: set[int]) -> bool:
    """Whether each run of trained tokens, which is an assistant turn, ends with a stop token."""
    next_labels = [*encoded.labels[1:], MASKED]
    last_labels = [
        label
        for label, next_label in zip(encoded.labels, next_labels, strict=True)
        if label != MASKED and next_label == MASKED
    ]
    return bool(last_labels) and all(label in stops for label in last_labels)


def _labels_match_tokens(encoded: Encoded) -> bool:
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    return all(label in (MASKED, token) for token, label in pairs)


def _tokenize(tokenizer: Any, texts: list[str]) -> list[int]:
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _decode_without_spaces(tokenizer: Any, ids: list[int]) -> str:
    # SentencePiece tokenizers add a space before a separate text. White space between turns does not count.
    return "".join(tokenizer.decode(ids, clean_up_tokenization_spaces=False).split())


def _example(tokenizer: Any, row: Row) -> dict[str, str]:
    """Return a row as text, and with its trained parts between ⟦ and ⟧."""
    marked, is_trained = "", False
    part: list[int] = []
    for token, label in zip(row.encoded.input_ids, row.encoded.labels, strict=True):
        if (label != MASKED) != is_trained:
            marked += _decode_part(tokenizer, part, is_trained)
            is_trained, part = not is_trained, []
        part.append(token)
    return {"text": row.rendered.text, "marked": marked + _decode_part(tokenizer, part, is_trained)}


def _decode_part(tokenizer: Any, ids: list[int], trained: bool) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return f"⟦{text}⟧" if trained else text
