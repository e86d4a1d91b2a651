"""The texts that rows are compared by: normalized prompt, normalized rest and exact text, one column at a time."""

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.text_bytes import squeezed
from ft_pipeline.tables.text_rules import ASCII_PUNCTUATION, normalise

TURN = " \x1f "
"""Separates the turns in a comparison text."""
_CALL = "\x1d"
"""Stands before the calls of tools of a turn."""
_PLAIN = bytes(ord(" ") if chr(byte).isspace() else ord(chr(byte).lower()) for byte in range(128))
_PLAIN += bytes(range(128, 256))
"""ASCII in lower case, and all its white space as spaces."""


class ComparisonTexts(NamedTuple):
    """One text per row in each field, as large_string."""

    prompts: pa.Array
    """Normalized human turns."""
    answers: pa.Array
    """Normalized rest."""
    exact: pa.Array
    """All strings of the row, unchanged."""
    asked: pa.Array
    """Human turns, unchanged."""
    spoken: pa.Array
    """Normalized turns of the model."""
    said: pa.Array | None = None
    """For conversations: the normalized text of each turn, all rows one after the other."""

    def filter(self, rows: pa.Array) -> "ComparisonTexts":
        """Return the texts of some rows, without `said`."""
        return ComparisonTexts(**{name: self._asdict()[name].filter(rows) for name in self._fields if name != "said"})


def normalise_all(texts: pa.Array) -> pa.Array:
    """Return `text_rules.normalise` of every text, as large_string: ASCII with Arrow kernels, others one by one."""
    texts = as_large(texts)
    result = pc.ascii_trim(squeezed(texts, _PLAIN), " ")
    cut = pc.ascii_rtrim(result, ASCII_PUNCTUATION)
    result = pc.if_else(pc.equal(cut, text_scalar("")), result, cut)
    non_ascii = pc.invert(pc.string_is_ascii(texts))
    if pc.any(non_ascii).as_py():
        careful = [normalise(text) for text in texts.filter(non_ascii).to_pylist()]
        result = pc.replace_with_mask(result, non_ascii, pa.array(careful, pa.large_string()))
    return result


def views_of_column(columns: Mapping[str, pa.Array]) -> ComparisonTexts:
    """Return the comparison texts of rows whose texts are in the column `messages`."""
    return with_tools(views_of_messages(columns["messages"]), columns.get("tools"))


def with_tools(views: ComparisonTexts, tools: pa.Array | None) -> ComparisonTexts:
    """Return the comparison texts of rows that declare these tools (JSON text, or null).

    A hash represents the tools among the normalized texts: the many words that rows with the same tools share would
    make near duplicates of all of them.
    """
    if tools is None or tools.null_count == len(tools):
        return views
    hashes = pa.array([text and sha256(text.encode()).hexdigest() for text in tools.to_pylist()], pa.large_string())
    answers = pc.coalesce(join_texts(views.answers, hashes, TURN), views.answers)
    exact = pc.coalesce(join_texts(views.exact, as_large(tools), "\x1f"), views.exact)
    return views._replace(answers=answers, exact=exact)


def views_of_messages(messages: pa.Array) -> ComparisonTexts:
    """Return the comparison texts of an array of arrow_schema.MESSAGES. In each turn, reasoning and calls of tools
    follow the content. Ids of calls are not compared."""
    turns, owners = messages.flatten(), _owners(messages)
    roles, content, reasoning = (as_large(turns.field(name)) for name in ("role", "content", "reasoning_content"))
    is_user, is_model = (pc.equal(roles, text_scalar(role)).to_numpy(False) for role in ("user", "assistant"))
    normal = normal_content = normalise_all(content)
    exact = join_texts(roles, content, "\x1e")
    if reasoning.null_count < len(reasoning):
        # A join with null is null: the turn then keeps its first part only.
        thoughts = pc.if_else(pc.is_null(reasoning), reasoning, normalise_all(pc.fill_null(reasoning, text_scalar(""))))
        normal = pc.coalesce(join_texts(normal, thoughts, TURN), normal)
        exact = pc.coalesce(join_texts(exact, reasoning, "\x1e"), exact)
    calls = turns.field("tool_calls")
    if calls.null_count < len(calls):
        texts = _calls_as_texts(calls)
        normal_calls = pc.if_else(pc.is_null(texts), texts, normalise_all(pc.fill_null(texts, text_scalar(""))))
        # The mark keeps a call apart from a text that looks like it.
        normal = pc.coalesce(join_texts(normal, join_texts(text_scalar(_CALL), normal_calls, ""), TURN), normal)
        exact = pc.coalesce(join_texts(exact, texts, "\x1e" + _CALL), exact)
    return ComparisonTexts(
        _joined(normal, owners, is_user, len(messages), TURN),
        _joined(normal, owners, ~is_user, len(messages), TURN),
        _joined(exact, owners, np.ones(len(owners), bool), len(messages), "\x1f"),
        _joined(content, owners, is_user, len(messages), TURN),
        _joined(normal, owners, is_model, len(messages), TURN),
        normal_content,
    )


def human_turns(messages: pa.Array) -> pa.Array:
    """Return `ComparisonTexts.asked` alone."""
    turns = messages.flatten()
    is_user = pc.equal(turns.field("role"), "user").to_numpy(zero_copy_only=False)
    return _joined(as_large(turns.field("content")), _owners(messages), is_user, len(messages), TURN)


def _owners(messages: pa.Array) -> np.ndarray:
    """Return the row of each turn."""
    return np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))


def _calls_as_texts(calls: pa.Array) -> pa.Array:
    """Return name and arguments of the calls of each turn as one large_string; null for a turn without calls."""
    texts = [
        " ".join(f"{call['name']} {call['arguments']}" for call in of_turn) if of_turn else None
        for of_turn in calls.to_pylist()
    ]
    return pa.array(texts, pa.large_string())


def _joined(texts: pa.Array, owners: np.ndarray, selected: np.ndarray, count: int, separator: str) -> pa.Array:
    """Return, for each of `count` owners (ascending), its selected texts joined into one."""
    offsets = np.searchsorted(owners[selected], np.arange(count + 1))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), texts.filter(pa.array(selected)))
    return pc.binary_join(lists, text_scalar(separator))


def join_texts(first: pa.Array | pa.Scalar, second: pa.Array, separator: str) -> pa.Array:
    """Return the pairs of texts, each joined by the separator. Both are large_string."""
    return pc.binary_join_element_wise(first, second, text_scalar(separator))


def as_large(texts: pa.Array) -> pa.Array:
    """Return the texts as large_string."""
    return texts if texts.type == pa.large_string() else texts.cast(pa.large_string())


def text_scalar(text: str) -> pa.Scalar:
    """Return a text as large_string.

    The join kernels do not mix text types: a plain str would be a `string`, but the columns are `large_string`.
    """
    return pa.scalar(text, pa.large_string())
