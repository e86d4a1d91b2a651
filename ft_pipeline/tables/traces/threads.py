"""Calls of one thread: each holds the turns of the calls before it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def answers_with_prefix(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield (position, hash of all turns up to it) of each answer. Ids of calls, names and weights do not count."""
    said = hashlib.sha256()
    for position, message in enumerate(messages):
        calls = [(call["name"], call["arguments"]) for call in message.get("tool_calls") or ()]
        said.update(repr((message["role"], message["content"].strip(), calls)).encode("utf-8", "surrogatepass"))
        if message["role"] == "assistant":
            yield position, said.hexdigest()


class Threads:
    """Finds the rows that are the beginning of another row. Rows are added in order; 16 bytes of each answer stay."""

    def __init__(self) -> None:
        self._ends: list[bytes] = []
        self._longer: dict[bytes, int] = {}
        """Hash of the turns up to an answer that is not the last of its row → the first row that continues it."""

    def add(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Add the turns of a row, which ends with an answer."""
        hashes = [bytes.fromhex(key[:32]) for _, key in answers_with_prefix(messages)]
        for key in hashes[:-1]:
            self._longer.setdefault(key, len(self._ends))
        self._ends.append(hashes[-1])

    def longer(self) -> np.ndarray:
        """Return for each row (int64) the first row that continues it, or -1."""
        return np.array([self._longer.get(key, -1) for key in self._ends], dtype=np.int64)
