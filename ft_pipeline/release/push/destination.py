"""Where an export is sent: what the hub and a bucket have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ft_pipeline.release.push.parcel import Parcel

ReportFile = Callable[[str], None]
"""Called with the name of each file that has arrived, unless the destination shows its own progress."""


@dataclass(frozen=True)
class Plan:
    """What a push would do, as the user confirms it."""

    address: str
    """Where the files will be, as a URL or a name."""
    notes: tuple[str, ...]
    """Sentences on who can read it, and on what is there already."""


class Destination(Protocol):
    """A place for an export."""

    def plan(self, parcel: Parcel) -> Plan:
        """Return what would be done. Nothing is changed. UserError if it cannot be done."""

    def send(self, parcel: Parcel, report: ReportFile) -> str:
        """Send the files, and return where they are. After an interruption, the same call completes the work.

        UserError if it fails.
        """
