"""Held-out measures of each conversation, before the first step and at the best step.

They show whether a training improved what it was made to improve. evaluation/comparison/own_targets.py computes the
intervals.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState

from ft_pipeline.training.objectives.targets import HELD_OUT
from ft_pipeline.training.trainer.evaluations import best_steps

_DIGITS = 7
"""Significant digits of a stored value: those of the 32-bit numbers that it was computed in."""

Sums = dict[str, Any]
"""`step`, `items` (their number, by row), `measures` (by name: their sum over the items, by row)."""


class HeldOutValues:
    """The measures of the last evaluation, of the one before the first step, and of the best one."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """rows: the validation rows. Those with the same `id` are of one conversation."""
        ids = [row.get("id", number) for number, row in enumerate(rows)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        self._conversations = [numbers[name] for name in ids]
        self._last: Sums | None = None
        self._kept: dict[str, Sums] = {}

    def measure(self, items: Sequence[float], measures: Mapping[str, Sequence[float]]) -> None:
        """Take the values of an evaluation, row by row: the number of items, and the sum over them of each measure."""
        self._last = {
            "items": list(items),
            "measures": {name: [_rounded(value) for value in values] for name, values in measures.items()},
        }

    def keep(self, state: TrainerState) -> None:
        """Keep the values of this evaluation if it is before the first step, or the best one. `state` has its loss."""
        if self._last is None:
            return
        kept = {**self._last, "step": state.global_step}
        if state.global_step == 0:
            self._kept["first"] = kept
        elif best_steps(state)[-1:] == [state.global_step]:
            self._kept["best"] = kept

    def save(self, folder: Path) -> None:
        """Write what is kept into a checkpoint, so that it survives a stop."""
        (folder / HELD_OUT).write_text(json.dumps(self._kept), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what a checkpoint kept. One of an older version has nothing."""
        if (path := folder / HELD_OUT).is_file():
            self._kept = json.loads(path.read_text(encoding="utf-8"))

    def document(self) -> dict[str, Any] | None:
        """Return the values by conversation; None if one of the two evaluations is missing.

        Keys: `best_step`, `items` (their number in each conversation) and `measures`: by name `first` and `best` (the
        sums over the items of each conversation), and `is_rate` (whether an item has it or not: 0 or 1).
        """
        if self._kept.keys() != {"first", "best"}:
            return None
        first, best = self._kept["first"], self._kept["best"]
        return {
            "best_step": best["step"],
            "items": self._by_conversation(best["items"]),
            "measures": {
                name: {
                    "first": self._by_conversation(first["measures"][name]),
                    "best": self._by_conversation(values),
                    "is_rate": all(
                        value in (0, count)
                        for each in (first["measures"][name], values)
                        for value, count in zip(each, best["items"], strict=True)
                    ),
                }
                for name, values in best["measures"].items()
            },
        }

    def _by_conversation(self, values: Sequence[float]) -> list[float]:
        sums = [0.0] * (max(self._conversations) + 1)
        for conversation, value in zip(self._conversations, values, strict=True):
            sums[conversation] += value
        return [_rounded(value) for value in sums]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
