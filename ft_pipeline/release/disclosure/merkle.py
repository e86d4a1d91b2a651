"""The Merkle tree of RFC 6962, section 2.1: one hash for a list, from which no entry can be changed or dropped."""

import hashlib
from collections.abc import Sequence


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of an entry: SHA-256(0x00 || content)."""
    return hashlib.sha256(b"\x00" + content).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of entries, in their order. A node is SHA-256(0x01 || left || right).

    Without entries it is the SHA-256 of nothing. Pairs are joined level by level. A last node without a partner moves
    up unchanged, which gives the tree of the RFC: its left part always has a power of two of leaves.
    """
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        joined = [
            hashlib.sha256(b"\x01" + level[position] + level[position + 1]).digest()
            for position in range(0, len(level) - 1, 2)
        ]
        level = joined + level[len(joined) * 2 :]
    return level[0]
