"""What is held out: validation and test rows, and the texts of the evaluation suites. Nothing near it is trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.hashes import mix
from ft_pipeline.tables.dedup.keys import compared_parts, keys_of_messages
from ft_pipeline.tables.dedup.matching import first_index, match_against
from ft_pipeline.tables.dedup.tokens import Texts, Tokens, as_array, tokenize
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.formats.comparison_texts import as_large, text_scalar, views_of_messages
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.leak_copies import MAX_COPIES
from ft_pipeline.tables.leak_findings import PAIR, WHOLE, Found
from ft_pipeline.tables.leaks import ANSWER, QUESTION, HeldOutTurns, LeakIndex
from ft_pipeline.tables.text_bytes import buffers
from ft_pipeline.tables.text_rules import without_markup

COMMON, SUITE = "common_sequences.parquet", "suite.json"
"""In a conversations artifact: the hashes of sequences of words that show nothing, and the texts of the suites."""
MIN_COMMON_PROMPTS = 3
"""Number of training prompts whose rows have a sequence of words, or ask a question among others, from which it is
common: a stock sentence, a label, "Can you give me an example?". It shows nothing of a held-out row that has it."""
MIN_COMMON_PAIRS = 10
"""The same number for a question together with its answer: "Thank you very much!" and "You are welcome."."""
MAX_WINDOWS = 8_000_000
"""Number of windows that are found before those that are common are dropped: this bounds the memory."""
_INSIDE = 1 << 28
"""Is added to the places in texts inside a row, so that they are not those of its turns."""
MIN_ANSWERS = 3
"""Number of different answers from which the last words of many questions are no question, but the end of instructions
that an application sends with every request: "Answer with the class alone."."""


@dataclass(frozen=True)
class SuiteTexts:
    """The texts of the evaluation suites: the general suite, and the documents of evaluation.tasks."""

    questions: Sequence[str] = ()
    answers: Sequence[str] = ()
    """The answer to each question; empty if it is unknown."""
    texts: Sequence[str] = ()
    templates: bool = True
    """Whether texts with other numbers count as held out, too (DataSettings.group_templates)."""

    @classmethod
    def of(cls, questions: Iterable[Sequence[str]], more: Iterable[str], texts: Iterable[str]) -> "SuiteTexts":
        """Return the texts of a suite. questions: pairs of question and answer. more: questions without answers."""
        pairs = [*map(tuple, questions), *((question, "") for question in more)]
        # A JSON file may have halves of characters, which no table can store.
        clean = [[text.encode("utf-8", "replace").decode() for text in pair] for pair in pairs]
        asked, answered = ([pair[side] for pair in clean] for side in (0, 1))
        return cls(asked, answered, [text.encode("utf-8", "replace").decode() for text in texts])

    def __len__(self) -> int:
        return len(self.questions) + len(self.texts)

    def name(self, number: int) -> str:
        """Return the name of a text by its number: questions first."""
        if number < len(self.questions):
            return f"question {number + 1} of the evaluation suites"
        return f"text {number - len(self.questions) + 1} of the evaluation suites"

    def whole_texts(self) -> list[str]:
        """Return one text per number: a question with its answer, or a text."""
        answers = self.answers or [""] * len(self.questions)
        return [f"{pair[0]}\n{pair[1]}".rstrip() for pair in zip(self.questions, answers, strict=True)] + [*self.texts]

    def write(self, folder: Path) -> None:
        """Write the texts to a conversations artifact."""
        content = {name: getattr(self, name) for name in ("questions", "answers", "texts", "templates")}
        (folder / SUITE).write_bytes(orjson.dumps(content, default=list))

    @classmethod
    def read(cls, folder: Path) -> "SuiteTexts":
        """Return the texts in a conversations artifact. Artifacts of earlier versions have none."""
        path = folder / SUITE
        return cls(**orjson.loads(path.read_bytes())) if path.is_file() else cls()

    def turns(self, first_owner: int) -> HeldOutTurns:
        """Return the texts as held-out turns. Their owners begin with `first_owner`."""
        turns = HeldOutTurns(self.templates)
        answers = self.answers or [""] * len(self.questions)
        rows = [
            [(question, QUESTION), (answer, ANSWER)] for question, answer in zip(self.questions, answers, strict=True)
        ]
        rows += [[(text, ANSWER)] for text in self.texts]
        entries = [(text, role, owner) for owner, row in enumerate(rows, first_owner) for text, role in row]
        if entries:
            texts, roles, owners = zip(*entries, strict=True)
            single = np.ones(len(entries), dtype=bool)
            turns.add(_tokens(list(texts)), np.array(owners), np.array(roles, np.uint8), single)
        # Instructions that many questions of a suite have in common are the task, not its content.
        turns.drop_windows(common_sequences)
        return turns


def turns_of_rows(messages: pa.Array, owners: np.ndarray, with_templates: bool, step: int = 1) -> HeldOutTurns:
    """Return the human and model turns of held-out rows, with the reasoning and the arguments of tool calls in them.

    step: see HeldOutTurns.
    """
    contents, roles, rows = _contents(messages)
    is_user, is_model = (pc.equal(roles, text_scalar(role)).to_numpy(False) for role in ("user", "assistant"))
    single = np.bincount(rows[is_user], minlength=len(messages))[rows] == 1
    kept = is_user | is_model
    turns = HeldOutTurns(with_templates, step)
    kinds = np.where(is_user, QUESTION, ANSWER).astype(np.uint8)
    turns.add(_tokens(contents.filter(pa.array(kept))), owners[rows[kept]], kinds[kept], single[kept])
    inner, rows = _inner_texts(messages)
    if len(inner):
        roles = np.full(len(inner), ANSWER, np.uint8)
        turns.add(_tokens(inner), owners[rows], roles, np.zeros(len(inner), dtype=bool))
    return turns


def _tokens(texts: Texts) -> Tokens:
    """Return the tokens of texts. A text may have been copied into JSON, where "\\nNext" is no word, or into HTML."""
    array = as_array(texts)
    data = buffers(array)[1]
    signs = [sign for sign in "\\<&" if (data == ord(sign)).any()]
    if not signs:
        return tokenize(array)
    has_markup = reduce(pc.or_, [pc.match_substring(array, sign) for sign in signs])
    plain = [without_markup(text) for text in array.filter(has_markup).to_pylist()]
    return tokenize(pc.replace_with_mask(array, has_markup, pa.array(plain, pa.large_string())))


def _contents(messages: pa.Array) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Return (content, role, row) of every turn."""
    turns = messages.flatten()
    rows = np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    return as_large(turns.field("content")), as_large(turns.field("role")), rows


def _inner_texts(messages: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return (text, row) of the reasoning in the turns, and of the arguments of their tool calls."""
    turns = messages.flatten()
    rows = np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    reasoning, calls = turns.field("reasoning_content"), turns.field("tool_calls")
    has_reasoning = pc.is_valid(reasoning)
    # Calls are fewer than turns, or none: the turn of each call is found from the lengths of the lists.
    turn_of_call = np.repeat(np.arange(len(turns)), pc.fill_null(pc.list_value_length(calls), 0).to_numpy(False))
    texts = pa.concat_arrays([as_large(reasoning.filter(has_reasoning)), as_large(calls.flatten().field("arguments"))])
    rows = np.concatenate([rows[has_reasoning.to_numpy(zero_copy_only=False)], rows[turn_of_call]])
    order = np.argsort(rows, kind="stable")
    return texts.take(pa.array(order)), rows[order]


def search_messages(messages: pa.Array, index: LeakIndex) -> Found:
    """Return what is found in the turns of rows, in their reasoning and in tool calls. A document is a row."""
    contents, roles, rows = _contents(messages)
    is_user = pc.equal(roles, text_scalar("user")).to_numpy(zero_copy_only=False)
    found = index.search(_tokens(contents), rows, is_user, len(messages))
    inner, rows = _inner_texts(messages)
    if not len(inner):
        return found
    found_inside = index.search(_tokens(inner), rows, np.zeros(len(rows), dtype=bool), len(messages))
    joined = Found.join([found, replace(found_inside, place=found_inside.place + _INSIDE)])
    return joined.select_windows(np.argsort(joined.window_document, kind="stable"))


class Findings:
    """Collects what is found in rows, and what of it is common. Windows that too many rows have are dropped."""

    def __init__(self, index: LeakIndex, groups: np.ndarray, is_counted: np.ndarray) -> None:
        """groups: the group of each row's prompt. is_counted: bool per row, whether it makes common what it has."""
        self._index, self._groups, self._is_counted = index, groups, is_counted
        self._found = [Found.windows(*(np.empty(0, np.int32) for _ in range(3)))]
        self._windows = 0
        self._is_common, self._is_dropped = (np.zeros(len(index.windows), dtype=bool) for _ in range(2))

    def add(self, found: Found) -> None:
        """Add what was found in some rows, which come after those before. Documents are rows."""
        found = found.select_windows(~self._is_dropped[found.window])
        self._found.append(found)
        self._windows += len(found.window)
        if self._windows > MAX_WINDOWS:
            self._drop_common_windows()
            self._windows = 0

    def result(self) -> tuple[Found, np.ndarray]:
        """Return what was found, and the hashes of what is common."""
        found = self._drop_common_windows()
        common = _common_questions(found.select(self._is_counted), self._groups)
        return found, np.concatenate([common, self._index.windows.hashes[self._is_common]])

    def _drop_common_windows(self) -> Found:
        found = Found.join(self._found)
        counted = self._is_counted[found.window_document]
        windows, groups = found.window[counted], self._groups[found.window_document[counted]]
        self._is_common[common_sequences(windows, groups)] = True
        numbers, counts = np.unique(windows, return_counts=True)
        self._is_dropped[numbers[counts > MAX_COPIES]] = True
        self._is_dropped &= self._is_common
        found = found.select_windows(~self._is_dropped[found.window])
        self._found = [found]
        return found


def _common_questions(found: Found, group_of_document: np.ndarray) -> np.ndarray:
    """Return the hashes (Found.hash) of what many prompts have. group_of_document: the group of each one's prompt."""
    groups = group_of_document[found.document]
    is_pair = found.kind == PAIR
    shared = np.flatnonzero(found.kind == WHOLE)
    return np.concatenate(
        [
            common_sequences(found.hash[shared], groups[shared]),
            common_sequences(found.hash[is_pair], groups[is_pair], MIN_COMMON_PAIRS),
            _after_instructions(found.hash[is_pair], found.asked[is_pair], groups[is_pair]),
        ]
    )


def _after_instructions(pairs: np.ndarray, asked: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the pairs whose question ends with instructions. asked: the last words of the question of each pair."""
    often = common_sequences(asked, groups, MIN_COMMON_PAIRS)
    distinct, first = np.unique(pairs, return_index=True)
    ends, answers = np.unique(asked[first], return_counts=True)
    return distinct[np.isin(asked[first], np.intersect1d(often, ends[answers >= MIN_ANSWERS]))]


def common_sequences(sequences: np.ndarray, groups: np.ndarray, least: int = MIN_COMMON_PROMPTS) -> np.ndarray:
    """Return the sequences that at least so many groups have. Both arrays: one entry per finding."""
    keys = mix(sequences.astype(np.uint64)) ^ groups.astype(np.uint64)
    pairs = np.flatnonzero(first_index(keys) == np.arange(len(sequences)))
    distinct, counts = np.unique(sequences[pairs], return_counts=True)
    return distinct[counts >= least]


@dataclass(frozen=True)
class HeldOut:
    """Everything that is held out, to be found in the rows that train and in the texts that are shown."""

    rows: list[dict[str, Any]]
    """Test rows, then validation rows: id, split, messages, table, file, row."""
    suite: SuiteTexts
    index: LeakIndex = field(repr=False)

    def name(self, owner: int) -> str:
        """Return the origin of a held-out row ("table/file:row"), or the name of a text of a suite."""
        return origin(self.rows[owner]) if owner < len(self.rows) else self.suite.name(owner - len(self.rows))

    def names_of(self, split: str) -> frozenset[str]:
        """Return the origins of the held-out rows of a split."""
        return frozenset(origin(row) for row in self.rows if row["split"] == split)

    def in_texts(self, texts: Sequence[str]) -> list[str | None]:
        """Return, for each text, the name of something held out that it contains, or None."""
        count = len(texts)
        if not count:
            return []
        found = self.index.search(_tokens(list(texts)), np.arange(count), np.ones(count, dtype=bool), count)
        return self._names(found, count)

    def in_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Return, for each conversation, the name of something held out that it contains, is near to or asks too."""
        if not conversations:
            return []
        names = self._names(search_messages(pa.array(conversations, MESSAGES), self.index), len(conversations))
        near = (origin(self.rows[at]) if at >= 0 else None for at in self._near(conversations).tolist())
        return [name or near_row for name, near_row in zip(names, near, strict=True)]

    def _names(self, found: Found, count: int) -> list[str | None]:
        owners = self.index.lowest_owners(found, count)
        return [self.name(owner) if owner >= 0 else None for owner in owners.tolist()]

    def _near(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        held_out = [row["messages"] for row in self.rows]
        keys, held_out_keys = keys_of_messages(conversations), keys_of_messages(held_out)
        read = partial(read_message_shingles, [*held_out, *conversations])
        matches = match_against(keys, held_out_keys, read).of
        same_prompt = first_index(np.concatenate([held_out_keys.prompt, keys.prompt]))[len(held_out) :]
        return np.where(matches >= 0, matches, np.where(same_prompt < len(held_out), same_prompt, -1))


def read_held_out(conversations: Path) -> HeldOut:
    """Return what the conversations of an artifact hold out: their test and validation rows, and the suites."""
    suite = SuiteTexts.read(conversations)
    columns = ["id", "split", "messages", "table", "file", "row"]
    table = pq.read_table(conversations / "rows.parquet", columns=columns, filters=pc.field("split") != "train")
    rows = sorted(table.to_pylist(), key=lambda row: row["split"])  # test before validation
    turns = suite.turns(len(rows))
    if rows:
        messages = pa.array([row["messages"] for row in rows], MESSAGES)
        turns.extend(turns_of_rows(messages, np.arange(len(rows)), suite.templates))
    index, path = LeakIndex(turns), conversations / COMMON
    if path.is_file():
        index.mark_common(pq.read_table(path)["sequence"].to_numpy())
    return HeldOut(rows, suite, index)


def read_message_shingles(conversations: Sequence[Sequence[Message]], positions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the compared parts (dedup.keys) of some conversations."""
    return compared_parts(views_of_messages(pa.array([conversations[at] for at in positions.tolist()], MESSAGES)))


def origin(row: dict[str, Any]) -> str:
    """Return "table/file:row"."""
    return f"{row['table']}/{row['file']}:{row['row']}"
