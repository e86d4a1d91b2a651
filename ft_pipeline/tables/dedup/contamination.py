"""Rows that must not be trained on: near a held-out row, or sharing a long phrase with the general suite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.tables.dedup.keys import Keys, keys_of, keys_of_messages
from ft_pipeline.tables.dedup.minhash import first_index, match_against
from ft_pipeline.tables.dedup.shingles import Texts, windows_of
from ft_pipeline.tables.formats.text import FORMAT as TEXT
from ft_pipeline.tables.text_rules import plain_words

PHRASE_WORDS = 13
"""Number of words of a phrase. A row that shares one with the general suite is not trained on."""
_NOT_WORDS = r"[^\p{L}\p{M}\p{N}_]+"


def near_heldout(rows: Keys, heldout: Keys) -> np.ndarray:
    """Return, for each row, the position of a held-out row that is equal, near or has the same prompt; -1 if none."""
    if not len(heldout) or not len(rows):
        return np.full(len(rows), -1, dtype=np.int64)
    first_prompt = first_index(np.concatenate([heldout.prompt, rows.prompt]))[len(heldout) :]
    matches = match_against(rows, heldout).of
    return np.where(matches >= 0, matches, np.where(first_prompt < len(heldout), first_prompt, -1))


def heldout_rows(conversations: Path) -> list[dict[str, Any]]:
    """Return the validation and test rows of a conversations artifact: id, split, messages, table, file, row."""
    columns = ["id", "split", "messages", "table", "file", "row"]
    filters = pc.field("split").isin(["validation", "test"])
    return pq.read_table(conversations / "rows.parquet", columns=columns, filters=filters).to_pylist()


def overlap_with_heldout(rows: Sequence[dict[str, Any]], heldout: Sequence[dict[str, Any]]) -> list[str | None]:
    """Return, for each row, the origin ("table/file:row") of a held-out row that excludes it from training, or None.

    rows: {messages, answer} (the messages may already include the answer), or {text}. heldout: from `heldout_rows`.
    """
    heldout_keys = keys_of_messages([row["messages"] for row in heldout])
    texts = [row for row in rows if "text" in row]
    if texts and len(texts) != len(rows):
        raise ValueError("rows are either all texts or all messages")
    row_keys = (
        keys_of(TEXT, [(row["text"],) for row in texts]) if texts else keys_of_messages([_whole(row) for row in rows])
    )
    return [
        origin(heldout[position]) if position >= 0 else None
        for position in near_heldout(row_keys, heldout_keys).tolist()
    ]


def origin(row: dict[str, Any]) -> str:
    """Return "table/file:row"."""
    return f"{row['table']}/{row['file']}:{row['row']}"


def _whole(row: dict[str, Any]) -> list[dict[str, str]]:
    answer = row.get("answer")
    return [*row["messages"], {"role": "assistant", "content": answer}] if answer else list(row["messages"])


class Phrases:
    """The 13-word phrases of a set of texts. Punctuation and case are ignored."""

    def __init__(self, texts: Sequence[str]):
        long = [words for text in texts if len(words := plain_words(text)) >= PHRASE_WORDS]
        self._known = np.unique(windows_of([" ".join(words) for words in long], PHRASE_WORDS)[0])

    def shared_by(self, normalised: Texts) -> np.ndarray:
        """Return a bool per text (already normalized): whether it shares 13 consecutive words with the set."""
        shared = np.zeros(len(normalised), dtype=bool)
        if not len(self._known) or not len(normalised):
            return shared
        texts = normalised if isinstance(normalised, pa.Array) else pa.array(normalised, pa.large_string())
        plain = pc.utf8_trim(pc.replace_substring_regex(texts, _NOT_WORDS, " "), " ")
        long = np.flatnonzero(pc.count_substring(plain, " ").to_numpy(zero_copy_only=False) >= PHRASE_WORDS - 1)
        hashes, counts = windows_of(plain.take(pa.array(long)), PHRASE_WORDS)
        shared[long[np.repeat(np.arange(len(long)), counts)[np.isin(hashes, self._known)]]] = True
        return shared
