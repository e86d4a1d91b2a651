"""What is held out: validation and test rows, and the texts of the evaluation suites. Nothing near it is trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.keys import Keys, keys_of_messages, shingles_of_views
from ft_pipeline.tables.dedup.matching import first_index, match_against
from ft_pipeline.tables.dedup.templates import without_signs
from ft_pipeline.tables.dedup.tokens import tokenize
from ft_pipeline.tables.formats.arrow_schema import MESSAGES
from ft_pipeline.tables.formats.comparison_texts import as_large, text_scalar, views_of_messages
from ft_pipeline.tables.formats.turns import Message
from ft_pipeline.tables.leaks import ANSWER, QUESTION, SHORT_ANSWER, HeldOutTurns, LeakIndex, Phrases

STANDARD_ANSWERS = "standard_answers.parquet"
"""In a conversations artifact: the ids of the held-out rows with a standard answer."""
SUITE = "suite.json"
"""In a conversations artifact: the texts of the evaluation suites."""
MIN_STANDARD_PROMPTS = 3
"""Number of training prompts from which an answer that they share is a standard answer: a label, or a stock sentence.
That an answer of a held-out row is one of these shows nothing of the row."""


@dataclass(frozen=True)
class SuiteTexts:
    """The texts of the evaluation suites: the general suite, and the documents of evaluation.tasks."""

    questions: Sequence[str] = ()
    texts: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Write the texts to a conversations artifact."""
        (folder / SUITE).write_bytes(orjson.dumps({"questions": list(self.questions), "texts": list(self.texts)}))

    @classmethod
    def read(cls, folder: Path) -> "SuiteTexts":
        """Return the texts in a conversations artifact. Artifacts of earlier versions have none."""
        path = folder / SUITE
        return cls(**orjson.loads(path.read_bytes())) if path.is_file() else cls()

    def __len__(self) -> int:
        return len(self.questions) + len(self.texts)

    def name(self, owner: int) -> str:
        """Return the name of a text by its number as an owner: questions first."""
        if owner < len(self.questions):
            return f"question {owner + 1} of the evaluation suites"
        return f"text {owner - len(self.questions) + 1} of the evaluation suites"

    def turns(self, mask_names: bool | None) -> HeldOutTurns:
        """Return the texts as held-out turns (mask_names: see there). Their owners are 0 to len(self) - 1."""
        turns = HeldOutTurns(mask_names)
        for texts, role, first in ((self.questions, QUESTION, 0), (self.texts, ANSWER, len(self.questions))):
            if texts:
                count = len(texts)
                owners, roles = np.arange(first, first + count), np.full(count, role, np.uint8)
                turns.add(tokenize(list(texts)), owners, roles, np.ones(count, dtype=bool))
        return turns


def turns_of_rows(
    messages: pa.Array, owners: np.ndarray, standard: np.ndarray, mask_names: bool | None
) -> HeldOutTurns:
    """Return the human and model turns of held-out rows. standard: bool per row, whether its answer is standard.

    mask_names: see HeldOutTurns."""
    contents, roles, rows = _contents(messages)
    is_user, is_model = (pc.equal(roles, text_scalar(role)).to_numpy(False) for role in ("user", "assistant"))
    kinds = np.where(is_user, QUESTION, np.where(standard[rows], SHORT_ANSWER, ANSWER)).astype(np.uint8)
    single = np.bincount(rows[is_user], minlength=len(messages))[rows] == 1
    kept = is_user | is_model
    turns = HeldOutTurns(mask_names)
    turns.add(tokenize(contents.filter(pa.array(kept))), owners[rows[kept]], kinds[kept], single[kept])
    return turns


def _contents(messages: pa.Array) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Return (content, role, row) of every turn."""
    turns = messages.flatten()
    rows = np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    return as_large(turns.field("content")), as_large(turns.field("role")), rows


def search_messages(
    messages: pa.Array, index: LeakIndex, phrases: Phrases
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three values per row: the lowest owner of a held-out turn that one of its turns contains, or -1; whether a
    human turn, and whether another turn, has one of the phrases."""
    contents, roles, rows = _contents(messages)
    is_user = pc.equal(roles, text_scalar("user")).to_numpy(zero_copy_only=False)
    tokens, count = tokenize(contents), len(messages)
    words = without_signs(tokens)
    has_phrase = phrases.shared_by(words)
    in_prompt, in_rest = (np.bincount(rows[has_phrase & side], minlength=count) > 0 for side in (is_user, ~is_user))
    return (
        _search_reasoning(messages, rows, index, index.search(tokens, words, rows, is_user, count)),
        in_prompt,
        in_rest,
    )


def _search_reasoning(messages: pa.Array, rows: np.ndarray, index: LeakIndex, found: np.ndarray) -> np.ndarray:
    """Return the lowest owners in the contents (`found`) or in the reasoning of the turns."""
    reasoning = messages.flatten().field("reasoning_content")
    has_reasoning = pc.is_valid(reasoning).to_numpy(zero_copy_only=False)
    if not has_reasoning.any():
        return found
    thoughts, owners = as_large(reasoning.filter(pa.array(has_reasoning))), rows[has_reasoning]
    tokens = tokenize(thoughts)
    no_question = np.zeros(len(owners), dtype=bool)
    hidden = index.search(tokens, without_signs(tokens), owners, no_question, len(messages))
    return np.where((hidden >= 0) & ((found < 0) | (hidden < found)), hidden, found)


def standard_answers(keys: Keys, train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return a bool per held-out row: whether at least 3 training prompts have its answer. train, held_out: positions
    in the keys."""
    answers = keys.answer_template[train]
    pairs = np.flatnonzero(first_index(answers ^ keys.group[train, 1]) == np.arange(len(train)))
    answers, prompts = np.unique(answers[pairs], return_counts=True)
    return np.isin(keys.answer_template[held_out], answers[prompts >= MIN_STANDARD_PROMPTS])


@dataclass(frozen=True)
class HeldOut:
    """Everything that is held out, to be found in the rows that train and in the texts that are shown."""

    rows: list[dict[str, Any]]
    """Test rows, then validation rows: id, split, messages, table, file, row."""
    suite: SuiteTexts
    index: LeakIndex
    phrases: Phrases

    def name(self, owner: int) -> str:
        """Return the origin of a held-out row ("table/file:row"), or the name of a text of a suite."""
        return self.suite.name(owner) if owner < len(self.suite) else origin(self.rows[owner - len(self.suite)])

    def in_texts(self, texts: Sequence[str]) -> list[str | None]:
        """Return, for each text, the name of something held out that it contains, or None."""
        if not texts:
            return []
        count, tokens = len(texts), tokenize(list(texts))
        documents, is_question = np.arange(count), np.ones(count, dtype=bool)
        owners = self.index.search(tokens, without_signs(tokens), documents, is_question, count)
        return [self.name(owner) if owner >= 0 else None for owner in owners.tolist()]

    def in_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """Return, for each conversation, the name of something held out that it contains, is near to or asks too."""
        if not conversations:
            return []
        messages = pa.array(conversations, MESSAGES)
        owners, prompts, _ = search_messages(messages, self.index, self.phrases)
        near = self._near(conversations)
        return [
            self.name(owner)
            if owner >= 0
            else origin(self.rows[position])
            if position >= 0
            else "13 words of a question of the evaluation suites"
            if shares
            else None
            for owner, position, shares in zip(owners.tolist(), near.tolist(), prompts.tolist(), strict=True)
        ]

    def _near(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        held_out = [row["messages"] for row in self.rows]
        keys, held_out_keys = keys_of_messages(conversations), keys_of_messages(held_out)
        matches = match_against(keys, held_out_keys, partial(read_message_shingles, [*held_out, *conversations])).of
        same_prompt = first_index(np.concatenate([held_out_keys.group[:, 1], keys.group[:, 1]]))[len(held_out) :]
        return np.where(matches >= 0, matches, np.where(same_prompt < len(held_out), same_prompt, -1))


def read_held_out(conversations: Path) -> HeldOut:
    """Return what the conversations of an artifact hold out: their test and validation rows, and the suites."""
    suite = SuiteTexts.read(conversations)
    columns = ["id", "split", "messages", "table", "file", "row"]
    table = pq.read_table(conversations / "rows.parquet", columns=columns, filters=pc.field("split") != "train")
    rows = sorted(table.to_pylist(), key=lambda row: row["split"])  # test before validation
    standard = set(_read_standard_answers(conversations))
    messages = pa.array([row["messages"] for row in rows], MESSAGES)
    mask_names = capitals_mark_names(messages) if rows else None
    turns = suite.turns(mask_names)
    if mask_names is not None:
        is_standard = np.array([row["id"] in standard for row in rows])
        owners = np.arange(len(suite), len(suite) + len(rows))
        turns.extend(turns_of_rows(messages, owners, is_standard, mask_names))
    return HeldOut(rows, suite, turns.index(), Phrases(suite.questions))


def _read_standard_answers(conversations: Path) -> Iterable[str]:
    path = conversations / STANDARD_ANSWERS
    return pq.read_table(path)["id"].to_pylist() if path.is_file() else ()


def capitals_mark_names(messages: pa.Array) -> bool:
    """Return whether capital letters inside sentences mark names in these rows (leaks.names_are_capitalized)."""
    contents, _, _ = _contents(messages)
    return HeldOutTurns.names_are_capitalized(tokenize(contents))


def read_message_shingles(
    conversations: Sequence[Sequence[Message]], positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (shingles, number per row) of some conversations, as dedup.near_duplicates.find_near needs them."""
    return shingles_of_views(views_of_messages(pa.array([conversations[at] for at in positions.tolist()], MESSAGES)))


def origin(row: dict[str, Any]) -> str:
    """Return "table/file:row"."""
    return f"{row['table']}/{row['file']}:{row['row']}"
