"""What rows are compared by: 64-bit keys of their exact and normalised texts, and their 3-word shingles.

All of it is made a batch at a time with Arrow and numpy, and is the same on every machine and in every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ft_pipeline.tables.rows import instruction_messages
from ft_pipeline.tables.text import is_empty, normalise
from ft_pipeline.tables.turns import Message

SHINGLE_WORDS = 3
# Odd constants: multiplication by them permutes the 64-bit integers, one permutation for each place in the shingle.
_PLACES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_TURN = " \x1f "


@dataclass
class Keys:
    """One entry per row."""

    exact: np.ndarray
    """uint64 of all strings of the row as they are."""
    normal: np.ndarray
    """uint64 of the normalised row."""
    prompt: np.ndarray
    """uint64 of the normalised human turns."""
    answer: np.ndarray
    """uint64 of the rest, normalised."""
    group: np.ndarray
    """uint64, shape (rows, 2): the first half of sha256 of the normalised human turns, the same for ever."""
    shingles: np.ndarray
    """uint64 of the 3-word shingles of prompt + answer, row after row; perhaps mapped from a file."""
    lengths: np.ndarray
    """int64: how many shingles each row has."""

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, rows: np.ndarray) -> "Keys":
        """The keys of some rows, in their order."""
        lengths = self.lengths[rows]
        starts = np.cumsum(self.lengths) - self.lengths
        places = np.repeat(starts[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
        return Keys(
            self.exact[rows],
            self.normal[rows],
            self.prompt[rows],
            self.answer[rows],
            self.group[rows],
            self.shingles[places],
            lengths,
        )


def merge(parts: Sequence[Keys], shingles: np.ndarray | None = None) -> Keys:
    """The keys of several batches, one after the other. `shingles`: all of theirs, where they lie together already."""
    if not parts:
        return make_keys([], [], [])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_ROW}
    if shingles is None:
        shingles = parts[0].shingles if len(parts) == 1 else np.concatenate([part.shingles for part in parts])
    return Keys(shingles=shingles, **columns)


_PER_ROW = ("exact", "normal", "prompt", "answer", "group", "lengths")


class ShingleFile:
    """The shingles of all rows, appended to a file and mapped back, so that they do not fill the memory."""

    def __init__(self, path: Path):
        self._path = path
        self._path.touch()
        self.count = 0

    def append(self, shingles: np.ndarray) -> None:
        """Write shingles behind the last ones."""
        with self._path.open("r+b") as file:
            file.seek(8 * self.count)
            shingles.tofile(file)
        self.count += len(shingles)

    def rewind(self, count: int) -> None:
        """Forget all but the first `count`: those after belong to a file that was refused."""
        self.count = count

    def read(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """The shingles from `begin` to `end`, mapped."""
        end = self.count if end is None else end
        if begin == end:
            return np.empty(0, dtype=np.uint64)
        return np.memmap(self._path, dtype=np.uint64, mode="r", offset=8 * begin, shape=(end - begin,))


def make_keys(exact: Sequence[str], prompts: Sequence[str], answers: Sequence[str]) -> Keys:
    """Keys from, per row, the exact text of it all, the normalised prompt, and the normalised rest."""
    shingles, lengths = shingles_of_views(prompts, answers)
    digests = b"".join([sha256(prompt.encode()).digest()[:16] for prompt in prompts])
    group = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    exact_keys, prompt_keys, answer_keys = (hash_texts(texts) for texts in (exact, prompts, answers))
    normal = _mix(prompt_keys * _PLACES[0] + answer_keys * _PLACES[1])
    return Keys(exact_keys, normal, prompt_keys, answer_keys, group, shingles, lengths)


def shingles_of_views(prompts: Sequence[str], answers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(shingles, number per row) of prompt + answer."""
    return shingle([f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)])


def keys_of(data_format: str, records: Sequence[tuple[Any, ...]]) -> Keys:
    """Keys of records of a table."""
    prompts, answers, exact = [], [], []
    for record in records:
        prompt, answer, whole = _views(data_format, record)
        prompts.append(prompt)
        answers.append(answer)
        exact.append(whole)
    return make_keys(exact, prompts, answers)


def views_of_messages(messages: pa.Array) -> tuple[list[str], list[str], list[str]]:
    """(normalised prompts, normalised rest, exact texts) of a list<struct<role, content>> array."""
    views = [_message_views(row) for row in messages.to_pylist()]
    return [view[0] for view in views], [view[1] for view in views], [view[2] for view in views]


def keys_of_messages(rows: Iterable[Sequence[Message]]) -> Keys:
    """Keys of conversations."""
    return keys_of("sharegpt", [(messages,) for messages in rows])


def group_names(group: np.ndarray) -> list[str]:
    """The groups of Keys as 32 hex digits each."""
    digits = group.astype(">u8").tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def prompt_of(messages: Sequence[Message]) -> str:
    """The normalised human turns."""
    return _TURN.join(normalise(message["content"]) for message in messages if message["role"] == "user")


def _views(data_format: str, record: tuple[Any, ...]) -> tuple[str, str, str]:
    """(normalised prompt, normalised rest, exact text) of one record."""
    if data_format == "alpaca":
        instruction, extra, output, system, history = record
        if system is None and history is None:
            prompt = f"{instruction}\n\n{extra}" if extra and not is_empty(extra) else instruction
            return normalise(prompt), normalise(output), f"user\x1e{prompt}\x1fassistant\x1e{output}"
        messages = instruction_messages(instruction, extra, system, history)
        return _message_views([*messages, {"role": "assistant", "content": output}])
    if data_format == "text":
        text = normalise(record[0])
        return text, "", record[0]
    if data_format == "preferences":
        prompt_messages, chosen, rejected = record
        prompt, answer, exact = _message_views([*prompt_messages, *chosen])
        # The words of the rejected side are marked, or a pair and its reverse would be near duplicates.
        other = " ".join(f"\x1e{word}" for word in normalise(rejected[0]["content"]).split(" "))
        return prompt, f"{answer}{_TURN}{other}", f"{exact}\x1f{rejected[0]['content']}"
    return _message_views(record[0])


def _message_views(messages: Sequence[Message]) -> tuple[str, str, str]:
    rest = [text for message in messages if message["role"] != "user" for text in _texts(message)]
    exact = "\x1f".join("\x1e".join([message["role"], *_texts(message)]) for message in messages)
    return prompt_of(messages), _TURN.join(map(normalise, rest)), exact


def _texts(message: Message) -> list[str]:
    """What is said, then what was thought before it, if anything."""
    thoughts = message.get("reasoning_content")
    return [message["content"], thoughts] if thoughts else [message["content"]]


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """uint64 of each text (SipHash with a fixed key)."""
    if not texts:
        return np.empty(0, dtype=np.uint64)
    return pd.util.hash_array(np.array(texts, dtype=object), categorize=False)


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 of every word, int64 number of words per text). Words are what single spaces divide.

    A word's hash is the polynomial of its bytes (each through a fixed random table) modulo 2^64; all words at once come
    out of one running sum over the bytes of all texts.
    """
    if not texts:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    array = pa.array(texts, pa.large_string())
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[: len(texts) + 1]
    data = np.frombuffer(array.buffers()[2], dtype=np.uint8)[: offsets[-1]] if offsets[-1] else np.empty(0, np.uint8)
    spaces = np.flatnonzero(data == 0x20)
    spaces_per_text = np.diff(np.searchsorted(spaces, offsets))
    # Words end at a space and at the end of their text; they begin after a space and at the beginning of their text.
    ends, begins = np.sort(np.concatenate([spaces, offsets[1:]])), np.sort(np.concatenate([spaces + 1, offsets[:-1]]))
    powers, inverses = _powers(len(data) + 1)
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(_BYTES[data] * powers[: len(data)], out=sums[1:])
    hashes = (sums[ends] - sums[begins]) * inverses[begins] + (ends - begins).astype(np.uint64)
    return _mix(hashes), spaces_per_text + 1


_BASE = 0x9E3779B97F4A7C15
_BYTES = np.random.Generator(np.random.PCG64(20240229)).integers(1, 2**64, 256, dtype=np.uint64) | np.uint64(1)
_TABLES: dict[str, np.ndarray] = {}


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of _BASE, and of its inverse, modulo 2^64."""
    if len(_TABLES.get("powers", ())) < count:
        size = 1 << max(count - 1, 1).bit_length()
        for name, base in (("powers", _BASE), ("inverses", pow(_BASE, -1, 2**64))):
            table = np.full(size, base, dtype=np.uint64)
            table[0] = 1
            _TABLES[name] = np.cumprod(table, dtype=np.uint64)
    return _TABLES["powers"], _TABLES["inverses"]


def shingle(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 shingles of all texts, int64 number per text); a text of fewer than 3 words is one shingle."""
    return windows(*word_hashes([text.replace(_TURN, " ").strip() for text in texts]), SHINGLE_WORDS)


def windows(hashes: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every `size` words in a row. Texts with fewer words give one hash, of what they have."""
    if not len(counts):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    # Zeros after each short text let it have one whole window.
    padded, padded_counts = _pad(hashes, counts, size)
    multipliers = np.array([_PLACES[place % 3] + np.uint64(2 * (place // 3)) for place in range(size)], dtype=np.uint64)
    total = np.zeros(max(len(padded) - size + 1, 0), dtype=np.uint64)
    for place in range(size):
        total += padded[place : place + len(total)] * multipliers[place]
    ends = np.cumsum(padded_counts)
    inside = np.ones(len(total), dtype=bool)
    for back in range(1, size):  # windows that would run into the next text
        at = ends[:-1] - back
        inside[at[at < len(inside)]] = False
    return _mix(total[inside]), padded_counts - (size - 1)


def _pad(hashes: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    if counts.min() >= size:
        return hashes, counts
    wanted = np.maximum(counts, size)
    padded = np.zeros(int(wanted.sum()), dtype=np.uint64)
    starts = np.cumsum(wanted) - wanted
    places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(len(hashes))
    padded[places] = hashes
    return padded, wanted


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread all bits over all bits (the finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    return values ^ (values >> np.uint64(33))
