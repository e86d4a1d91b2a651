"""Seals for the entries of caches. A person who can write to the store, but does not have its key, cannot make one.

Without a seal, a planted entry would be used by the next run, and what the run makes of it would be signed.
"""

import hmac
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.signing import find_key

_PURPOSE = b"ft_pipeline cache"
UNSEALED = "unsealed"
"""The seal of every entry in a store without a key."""


class CacheSeal:
    """Makes and checks the seals of one store folder: HMAC-SHA-256 with a secret that its private key gives.

    In a signed store whose key is missing, no entry is used and none is written. That costs only time.
    """

    def __init__(self, store: Path) -> None:
        self._store = store

    @cached_property
    def _secret(self) -> bytes | None:
        """None: the store is signed, but its key is missing. Empty: the store is not signed."""
        try:
            key = find_key(self._store)
        except UserError:
            return None
        return b"" if key is None else hmac.digest(key.path.read_bytes(), _PURPOSE, sha256)

    def of(self, content: Any) -> str | None:
        """Return the seal of `content` (plain JSON); None if it cannot be sealed, and must not be cached."""
        if not self._secret:
            return None if self._secret is None else UNSEALED
        return hmac.new(self._secret, sha256_of_json(content).encode(), sha256).hexdigest()

    def fits(self, content: Any, seal: Any) -> bool:
        """Return whether `seal` is the seal of `content`."""
        expected = self.of(content)
        return expected is not None and isinstance(seal, str) and hmac.compare_digest(expected.encode(), seal.encode())
