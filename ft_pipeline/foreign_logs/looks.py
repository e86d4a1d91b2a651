"""A file that counts the comparisons on the same items: who compares again and again finds a lead by luck.

Of the rate of errors, the t-th look gets 1 / (t (t + 1)). All looks together get 1 (a telescoping sum; alpha spending).
Each line of the file has the hash of the line before it, so that a changed or removed one before
the last is found.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.atomic_files import translate_write_errors
from ft_pipeline.store.hashing import canonical_json, sha256_of_json

KEYS = ("look", "compared", "previous")


def share_of(look: int) -> float:
    """Return the share of the rate of errors that a look gets. look: from 1."""
    return 1 / (look * (look + 1))


class Looks:
    """The looks of a file. UserError if the file is not as it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}. Name a file.") from None
        self._lines = content.splitlines()
        if content and not content.endswith(b"\n"):
            raise UserError(f"{path}: the last line has no end. Restore the file from a copy.")
        self._looks = [self._read(number) for number in range(len(self._lines))]

    def _read(self, at: int) -> Mapping[str, Any]:
        try:
            look = json.loads(self._lines[at])
            if [look[key] for key in KEYS][::2] == [at + 1, self._hash_before(at)]:
                return dict(look)
        except (ValueError, LookupError, TypeError):
            pass
        raise UserError(f"{self.path}: line {at + 1} is not as it was written. Restore the file from a copy.")

    def _hash_before(self, at: int) -> str | None:
        return sha256(self._lines[at - 1]).hexdigest() if at else None

    def number_of(self, compared: Any) -> int:
        """Return the number of a look: that of an earlier one at the same scores, or the next."""
        digest = sha256_of_json(compared)
        earlier = (look["look"] for look in self._looks if look["compared"] == digest)
        return next(earlier, len(self._looks) + 1)

    def record(self, number: int, compared: Any, about: Mapping[str, Any]) -> None:
        """Write a look that is new. about: what people read of it."""
        if number <= len(self._looks):
            return
        when = datetime.now(UTC).isoformat(timespec="seconds")
        chain = {"look": number, "compared": sha256_of_json(compared), "previous": self._hash_before(number - 1)}
        with translate_write_errors(), self.path.open("ab") as file:
            file.write(canonical_json({**chain, "time": when, **about}) + b"\n")
