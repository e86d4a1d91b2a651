"""The ledger of looks at the validation rows: one record for each search of a prompt, with the number of its tries."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.ledger import Ledger


@dataclass(frozen=True)
class ValidationLook:
    """A search of a prompt."""

    sequence: int
    """From 1."""
    time: str
    search: str
    """Fingerprint of the artifact with its tries."""
    base_model: str
    conversations: str
    """Fingerprints of what was searched for, and on which rows."""
    tries: int
    previous_sha256: str | None = None


def ledger(store: Path) -> Ledger[ValidationLook]:
    """Return the ledger of a store."""
    loss = "; without it, nobody knows how many prompts were tried"
    return Ledger(
        store / "validation_looks", "sequence", ValidationLook, ValidationLook, "The ledger of validation looks", loss
    )


def write_look(store: Path, search: Artifact) -> None:
    """Record a search, unless it is recorded, or tried nothing."""
    looks, tries = ledger(store), search.summary["tries"]
    while tries and all(look.search != search.fingerprint for look in looks.read()):
        looks.append(
            {
                "sequence": looks.next_number(),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "search": search.fingerprint,
                **{name: search.inputs[name][1] for name in ("base_model", "conversations")},
                "tries": tries,
            }
        )


def count_tries(store: Path) -> int:
    """Return how many prompts were tried, over all searches of a store."""
    return sum(look.tries for look in ledger(store).read())
