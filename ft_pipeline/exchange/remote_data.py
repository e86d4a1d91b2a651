"""Data sets on a hub or in a bucket, and the YAML in data/raw that names one as a source."""

import re
from dataclasses import dataclass
from typing import Any

from ft_pipeline.sources.declaration import BadSource, parse_source


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

    def refusal(self) -> str | None:
        """Return why a YAML in data/raw cannot name it, or None: such as another kind of address, or a secret in it."""
        try:
            parse_source(self.declaration({})[0])
        except BadSource as error:
            return str(error)
        return None

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
