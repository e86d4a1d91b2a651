"""The texts that rows are compared by: normalized prompt, normalized rest and exact text, one column at a time."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft_pipeline.tables.formats.alpaca import instruction_messages
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.text_rules import ASCII_PUNCTUATION, EMPTY_CHARS, normalise

TURN = " \x1f "
_SPREAD = r"[\t-\r\x1c-\x1f]|  "
"""ASCII white space other than a single space."""
_WHITE = r"[\t-\r\x1c-\x20]+"


class ComparisonTexts(NamedTuple):
    """One text per row in each field, as large_string."""

    prompts: pa.Array
    """Normalized human turns."""
    answers: pa.Array
    """Normalized rest."""
    exact: pa.Array
    """All strings of the row, unchanged."""
    said: pa.Array | None = None
    """For conversations: the normalized text of each turn, all rows one after the other."""

    def filter(self, rows: pa.Array) -> "ComparisonTexts":
        """Return the texts of some rows, without `said`."""
        return ComparisonTexts(self.prompts.filter(rows), self.answers.filter(rows), self.exact.filter(rows))


def comparison_texts(data_format: str, columns: Mapping[str, pa.Array]) -> ComparisonTexts:
    """Return the comparison texts of rows, given as the columns of their format."""
    if data_format == "alpaca":
        return _alpaca_views(columns)
    if data_format == "text":
        text = _large(columns["text"])
        return ComparisonTexts(normalise_all(text), _constant("", len(text)), text)
    if data_format == "preferences":
        return _preference_views(columns)
    return views_of_messages(columns["messages"])


def normalise_all(texts: pa.Array) -> pa.Array:
    """Return `text_rules.normalise` of every text, as large_string: ASCII with Arrow kernels, others one by one."""
    texts = _large(texts)
    result = pc.ascii_lower(texts)
    spread = pc.match_substring_regex(result, _SPREAD)
    if pc.any(spread).as_py():
        result = pc.replace_with_mask(result, spread, pc.replace_substring_regex(result.filter(spread), _WHITE, " "))
    result = pc.ascii_trim(result, " ")
    cut = pc.ascii_rtrim(result, ASCII_PUNCTUATION)
    result = pc.if_else(pc.equal(cut, _scalar("")), result, cut)
    non_ascii = pc.invert(pc.string_is_ascii(texts))
    if pc.any(non_ascii).as_py():
        careful = [normalise(text) for text in texts.filter(non_ascii).to_pylist()]
        result = pc.replace_with_mask(result, non_ascii, pa.array(careful, pa.large_string()))
    return result


def views_of_messages(messages: pa.Array) -> ComparisonTexts:
    """Return the comparison texts of an array of arrow_schema.MESSAGES. In each turn, reasoning follows the content."""
    turns = messages.flatten()
    roles, content, reasoning = (_large(turns.field(name)) for name in ("role", "content", "reasoning_content"))
    is_user = pc.equal(roles, _scalar("user")).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    normal = normal_content = normalise_all(content)
    exact = _join(roles, content, "\x1e")
    if reasoning.null_count < len(reasoning):
        # A join with null is null: the turn then keeps its first part only.
        thoughts = pc.if_else(pc.is_null(reasoning), reasoning, normalise_all(pc.fill_null(reasoning, _scalar(""))))
        normal = pc.coalesce(_join(normal, thoughts, TURN), normal)
        exact = pc.coalesce(_join(exact, reasoning, "\x1e"), exact)
    return ComparisonTexts(
        _joined(normal, owners, is_user, len(messages), TURN),
        _joined(normal, owners, ~is_user, len(messages), TURN),
        _joined(exact, owners, np.ones(len(owners), bool), len(messages), "\x1f"),
        normal_content,
    )


def _joined(texts: pa.Array, owners: np.ndarray, wanted: np.ndarray, count: int, separator: str) -> pa.Array:
    """Return, for each of `count` owners (ascending), its wanted texts joined into one."""
    offsets = np.searchsorted(owners[wanted], np.arange(count + 1))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), texts.filter(pa.array(wanted)))
    return pc.binary_join(lists, _scalar(separator))


def _alpaca_views(columns: Mapping[str, pa.Array]) -> ComparisonTexts:
    plain = pc.and_(pc.is_null(columns["system"]), pc.is_null(columns["history"])).to_numpy(zero_copy_only=False)
    if plain.all():
        return _plain_alpaca_views(columns)
    first, second = np.flatnonzero(plain), np.flatnonzero(~plain)
    views = _plain_alpaca_views({name: column.take(pa.array(first)) for name, column in columns.items()})
    rest = pa.table({name: column.take(pa.array(second)) for name, column in columns.items()})
    others = views_of_messages(messages_of_alpaca(rest))
    order = pa.array(np.argsort(np.concatenate([first, second])))
    return ComparisonTexts(*(pa.concat_arrays(pair).take(order) for pair in zip(views[:3], others[:3], strict=True)))


def messages_of_alpaca(rows: pa.Table) -> pa.Array:
    """Return [system] + history + user (instruction, empty line, input) + assistant for each row."""
    conversations = []
    for row in rows.select(["instruction", "input", "output", "system", "history"]).to_pylist():
        messages = instruction_messages(row["instruction"], row["input"], row["system"], row["history"])
        conversations.append([*messages, {"role": "assistant", "content": row["output"]}])
    return pa.array(conversations, MESSAGES)


def plain_prompts(instruction: pa.Array, extra: pa.Array) -> pa.Array:
    """Return the human turns of instructions without history. The input, if any, follows an empty line."""
    instruction, extra = _large(instruction), _large(extra)
    has_input = pc.not_equal(pc.utf8_trim(extra, EMPTY_CHARS), _scalar(""))
    return pc.if_else(has_input, _join(instruction, extra, "\n\n"), instruction)


def _plain_alpaca_views(columns: Mapping[str, pa.Array]) -> ComparisonTexts:
    prompts, answers = plain_prompts(columns["instruction"], columns["input"]), _large(columns["output"])
    exact = _join(_scalar("user"), prompts, "\x1e"), _join(_scalar("assistant"), answers, "\x1e")
    return ComparisonTexts(normalise_all(prompts), normalise_all(answers), _join(*exact, "\x1f"))


def _preference_views(columns: Mapping[str, pa.Array]) -> ComparisonTexts:
    """Return the comparison texts of preference pairs. The rest is the chosen answer and the rejected answer.

    The words of the rejected answer are marked. Otherwise a pair and its reverse would be near duplicates.
    """
    rows = zip(columns["prompt_messages"].to_pylist(), columns["chosen"].to_pylist(), strict=True)
    views = views_of_messages(pa.array([[*prompt, *chosen] for prompt, chosen in rows], columns["chosen"].type))
    rejected = _large(pc.struct_field(columns["rejected"].flatten(), "content"))
    marked = _join(_scalar(""), pc.replace_substring(normalise_all(rejected), " ", " \x1e"), "\x1e")
    return ComparisonTexts(views.prompts, _join(views.answers, marked, TURN), _join(views.exact, rejected, "\x1f"))


def _join(first: pa.Array | pa.Scalar, second: pa.Array, separator: str) -> pa.Array:
    return pc.binary_join_element_wise(first, second, _scalar(separator))


def _large(texts: pa.Array) -> pa.Array:
    return texts if texts.type == pa.large_string() else texts.cast(pa.large_string())


def _constant(text: str, count: int) -> pa.Array:
    return pa.repeat(_scalar(text), count)


def _scalar(text: str) -> pa.Scalar:
    # The join kernels do not mix text types: a plain str would be a `string`, but the columns are `large_string`.
    return pa.scalar(text, pa.large_string())
