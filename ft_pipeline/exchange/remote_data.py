"""Data sets on a hub or in a bucket, and the YAML in data/raw that names one as a source."""

import re
from dataclasses import dataclass
from typing import Any

SCHEMES = ("hf://", "s3://", "https://")
"""Addresses that a YAML in data/raw may name."""


@dataclass
class Remote:
    """A data set that is not in the imported folder."""

    source: str
    """An address, such as `hf://datasets/OWNER/NAME`."""
    revision: str | None = None
    split: str | None = None
    """The split of a whole data set of the hub, as their file says it."""
    subset: str | None = None
    note: str = ""
    """What the address does not say."""

    @property
    def can_be_named(self) -> bool:
        """Whether a YAML in data/raw can name it: data sets of the hub need their owner."""
        return self.source.startswith(SCHEMES) and (not self.source.startswith("hf://") or self.source.count("/") >= 4)

    @property
    def _is_data_set(self) -> bool:
        """Whether it is a whole data set of the hub, and not a file."""
        return self.source.startswith("hf://datasets/") and self.source.count("/") == 4

    def declaration(self, sidecar: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the YAML that names it, with the keys of a sidecar, and sentences about what it cannot say."""
        document: dict[str, Any] = {"source": self.source}
        notes = [self.note] if self.note else []
        if self.revision or self.source.startswith("hf://"):
            document["revision"] = self.revision or "main"
        keys = dict(sidecar)
        if self._is_data_set:
            name = re.match(r"\w+", self.split or "train")
            split = name[0] if name else "train"
            document |= {"subset": self.subset} if self.subset else {}
            document["split"] = split
            if self.split and split != self.split:
                notes.append(f"Theirs uses {self.split}; ours the whole split.")
            if keys.pop("split", None) and split != "test":
                notes.append(f"Its split is {split}, so that its rows are not test rows here.")
        return document | keys, notes
