"""What an import took over, what became something else, and what has no counterpart."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["taken_over", "changed", "no_counterpart", "ignored"]
"""`ignored`: names of keys that say nothing about what is trained."""
KINDS: tuple[Kind, ...] = ("taken_over", "changed", "no_counterpart", "ignored")


@dataclass
class Line:
    """One line of the report."""

    kind: Kind
    theirs: str
    """What their project says, such as `cutoff_len: 2048`."""
    ours: str = ""
    """What the new project says. Empty if it has no counterpart."""
    effect: str = ""
    """What differs from now on, in one or two sentences."""
    sources: list[str] = field(default_factory=list)
    """The files that say so."""


@dataclass
class ImportReport:
    """The lines of an import, in the order in which they were found, and what was written."""

    lines: list[Line] = field(default_factory=list)
    experiments: dict[str, str] = field(default_factory=dict)
    """Name → the file that it was made from."""
    files: list[str] = field(default_factory=list)
    """The data files and sidecars that were written, relative to the project folder."""
    _ignored: dict[str, None] = field(default_factory=dict)

    def add(self, kind: Kind, source: str, theirs: str, ours: str = "", effect: str = "") -> None:
        """Add a line. If there is an equal line of another file, add the file to that line."""
        for line in self.lines:
            if (line.kind, line.theirs, line.ours, line.effect) == (kind, theirs, ours, effect):
                if source not in line.sources:
                    line.sources.append(source)
                return
        self.lines.append(Line(kind, theirs, ours, effect, [source]))

    def merge(self, other: "ImportReport") -> None:
        """Add the lines and ignored names of another report."""
        for line in other.lines:
            for source in line.sources:
                self.add(line.kind, source, line.theirs, line.ours, line.effect)
        self._ignored |= other._ignored

    def ignore(self, names: list[str]) -> None:
        """Add names of keys that say nothing about what is trained."""
        self._ignored |= dict.fromkeys(names)

    def all_lines(self) -> list[Line]:
        """Return the lines by kind. The ignored names are one line at the end."""
        lines = [line for kind in KINDS for line in self.lines if line.kind == kind]
        if self._ignored:
            effect = "These keys say nothing about what is trained, or only about speed and memory."
            lines.append(Line("ignored", ", ".join(sorted(self._ignored)), "", effect))
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "experiments": self.experiments,
            "files": self.files,
            "lines": [vars(line) for line in self.all_lines()],
        }
