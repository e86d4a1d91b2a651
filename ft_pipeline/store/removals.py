"""The list of artifacts that `ft gc` removed."""

import contextlib
import json
from pathlib import Path

from ft_pipeline.store.spec import ArtifactReference

LOG_NAME = "removed.jsonl"
"""Append-only list of removed artifacts, so that an audit can distinguish removal from tampering."""


def logged_removals(root: Path) -> set[ArtifactReference]:
    """Return the artifacts in the removal log of the store `root`.

    After an interruption, the last one may still be in the store.
    """
    try:
        lines = (root / LOG_NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    removed = set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged line excuses nothing
            entry = json.loads(line)
            removed.add((str(entry["kind"]), str(entry["fingerprint"])))
    return removed
