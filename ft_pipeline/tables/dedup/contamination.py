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
from ft_pipeline.tables.text_rules import plain_words

PHRASE_WORDS = 13
_NOT_WORDS = r"[^\p{L}\p{M}\p{N}_]+"


def near_heldout(rows: Keys, heldout: Keys) -> np.ndarray:
    """For each row, the position of a held-out row that it equals, is near to, or has the prompt of; -1 for none."""
    if not len(heldout) or not len(rows):
        return np.full(len(rows), -1, dtype=np.int64)
    first_prompt = first_index(np.concatenate([heldout.prompt, rows.prompt]))[len(heldout) :]
    found = match_against(rows, heldout).of
    return np.where(found >= 0, found, np.where(first_prompt < len(heldout), first_prompt, -1))


def heldout_rows(conversations: Path) -> list[dict[str, Any]]:
    """The validation and test rows of a conversations artifact: id, split, messages, table, file, row."""
    columns = ["id", "split", "messages", "table", "file", "row"]
    filters = pc.field("split").isin(["validation", "test"])
    return pq.read_table(conversations / "rows.parquet", columns=columns, filters=filters).to_pylist()


def overlap_with_heldout(rows: Sequence[dict[str, Any]], heldout: Sequence[dict[str, Any]]) -> list[str | None]:
    """For each row the origin ("table/file:row") of a held-out row that keeps it from being trained on, or None.

    rows: {messages, answer} (the answer may stand in the messages already), or {text}. heldout: as heldout_rows gives.
    """
    known = keys_of_messages([row["messages"] for row in heldout])
    texts = [row for row in rows if "text" in row]
    if texts and len(texts) != len(rows):
        raise ValueError("rows are either all texts or all messages")
    new = (
        keys_of("text", [(row["text"],) for row in rows]) if texts else keys_of_messages([_whole(row) for row in rows])
    )
    return [origin(heldout[at]) if at >= 0 else None for at in near_heldout(new, known).tolist()]


def origin(row: dict[str, Any]) -> str:
    """table/file:row."""
    return f"{row['table']}/{row['file']}:{row['row']}"


def _whole(row: dict[str, Any]) -> list[dict[str, str]]:
    answer = row.get("answer")
    return [*row["messages"], {"role": "assistant", "content": answer}] if answer else list(row["messages"])


class Phrases:
    """The phrases of 13 words of a set of texts; punctuation and case do not count."""

    def __init__(self, texts: Sequence[str]):
        long = [words for text in texts if len(words := plain_words(text)) >= PHRASE_WORDS]
        self._known = np.unique(windows_of([" ".join(words) for words in long], PHRASE_WORDS)[0])

    def shared_by(self, normalised: Texts) -> np.ndarray:
        """bool per text (normalised before): does it share 13 words in a row with one of the set?"""
        found = np.zeros(len(normalised), dtype=bool)
        if not len(self._known) or not len(normalised):
            return found
        texts = normalised if isinstance(normalised, pa.Array) else pa.array(normalised, pa.large_string())
        plain = pc.utf8_trim(pc.replace_substring_regex(texts, _NOT_WORDS, " "), " ")
        long = np.flatnonzero(pc.count_substring(plain, " ").to_numpy(zero_copy_only=False) >= PHRASE_WORDS - 1)
        hashes, counts = windows_of(plain.take(pa.array(long)), PHRASE_WORDS)
        found[long[np.repeat(np.arange(len(long)), counts)[np.isin(hashes, self._known)]]] = True
        return found
