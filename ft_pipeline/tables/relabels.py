"""Labels that people gave again to rows: data/relabels.jsonl, a line per decision, of which the last one counts.

Raw files stay as they are. An experiment with `data.relabels` trains on these labels, beside one that does not: so the
comparison says what they bring before anybody changes a file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.store.text_redaction import PLACEHOLDER
from ft_pipeline.tables.formats.turns import is_trained

FILE_NAME = "data/relabels.jsonl"
"""In the project folder."""
TRAINED = "relabels.json"
"""In training_data: id → label of the train rows that people labeled again. Absent if there are none."""


@dataclass(frozen=True)
class Relabel:
    """A decision about one row."""

    id: str
    source: str
    """Where people find the row: table/file:row."""
    was: str
    label: str | None
    """None: the person is unsure, and the row stays as it is."""
    time: str = ""
    """UTC."""


def read_relabels(root: Path) -> dict[str, Relabel]:
    """Return the last decision about each row. root: the project folder. UserError for any other line."""
    path, found = root / FILE_NAME, dict[str, Relabel]()
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), 1):
        try:
            decision = Relabel(**json.loads(line))
        except (ValueError, TypeError):
            raise UserError(f"{FILE_NAME}:{number} is no decision of `ft relabel`. Remove the line.") from None
        found[decision.id] = decision
    return found


def add_relabel(root: Path, decision: Relabel) -> None:
    """Add a decision, with the time of now."""
    line = json.dumps({**asdict(decision), "time": datetime.now(UTC).isoformat(timespec="seconds")})
    path = root / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def changed_labels(decisions: Mapping[str, Relabel]) -> dict[str, str]:
    """Return id → the new label of each row whose label changes. Erased labels do not count."""
    return {
        name: decision.label
        for name, decision in sorted(decisions.items())
        if decision.label not in (None, decision.was) and PLACEHOLDER not in decision.label
    }


def trained_labels(training_data: Path) -> dict[str, str]:
    """Return id → label of the train rows that an artifact trains with another label than their raw file has."""
    path = training_data / TRAINED
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def relabeled(row: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return a conversation with its new label, if it has one. labels: by the id of the row."""
    if row["id"] not in labels or "messages" not in row:
        return {**row}
    return {**row, "messages": with_label(row["messages"], labels[row["id"]])}


def with_label(messages: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation with another last answer, without the reasoning that led to the old one."""
    last = max(place for place, turn in enumerate(messages) if is_trained(turn))
    answer = {**messages[last], "content": label}
    answer |= {"reasoning_content": None} if answer.get("reasoning_content") else {}
    return [answer if place == last else {**turn} for place, turn in enumerate(messages)]
