"""The objectives by name: what each trains on, and where its code is. No torch, so that the graph can read it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pkgutil import resolve_name
from typing import Any, Protocol

from ft_pipeline.settings.experiment import ExperimentSettings, Objective

Column = tuple[str, str]
"""(table, column)."""
UNFILTERED = ("preferences", "text")
"""Tables that may have rows near a held-out row. These are left out when the training data is made."""


class Rows(Protocol):
    """Reads the tables of a job and returns its rows (objectives.rows.PreparedRows)."""

    def __call__(self, job: Any, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> Any: ...


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective. To add one: a file with its rows and its trainer, a settings section, and an entry below."""

    table: str | None
    """The table that it always trains on in addition to conversations; None: none."""
    mixed: Mapping[str, str]
    """Weights of the experiment's data → the tables that train if the weight is above 0."""
    lineage: Mapping[str, Collection[Column]]
    """Column of the training data → the columns that it is made from. Tables that do not train are skipped."""
    rows_path: str
    """`module:function` of `rows`."""
    trainer_path: str
    """`module:class` of the trainer (TokenTrainer or a subclass)."""
    sequences: int = 1
    """Number of token sequences in a row."""

    def tables(self, settings: ExperimentSettings) -> list[str]:
        """Return the tables that an experiment trains on in addition to conversations."""
        mixed = [table for weight, table in self.mixed.items() if getattr(settings.data.weights, weight) > 0]
        return [*([self.table] if self.table else []), *mixed]

    def lineage_from(self, tables: Collection[str]) -> dict[str, list[Column]]:
        """Return the lineage of training data that was made from `tables`."""
        lineage = {name: [column for column in made if column[0] in tables] for name, made in self.lineage.items()}
        return {name: columns for name, columns in lineage.items() if columns}

    @cached_property
    def rows(self) -> Rows:
        """The function that makes the rows. The first use imports its module."""
        function: Rows = resolve_name(self.rows_path)
        return function

    @cached_property
    def trainer(self) -> Any:
        """The class that trains. The first use imports torch."""
        return resolve_name(self.trainer_path)


_ROOM = "ft_pipeline.training.objectives"
_TOKEN_TRAINER = "ft_pipeline.training.trainer.token_trainer:TokenTrainer"
_ANSWERS = [("conversations", "messages"), ("distilled", "messages"), ("text", "text")]
_PROMPT, _CHOSEN, _REJECTED = (("preferences", name) for name in ("prompt_messages", "chosen", "rejected"))

OBJECTIVES: Mapping[Objective, ObjectiveSpec] = {
    "sft": ObjectiveSpec(
        table=None,
        mixed={"distilled": "distilled", "replay": "text"},
        lineage={
            "id": [(table, "id") for table, _ in _ANSWERS],
            "input_ids": _ANSWERS,
            "labels": _ANSWERS,
        },
        rows_path=f"{_ROOM}.sft:prepare_rows",
        trainer_path=_TOKEN_TRAINER,
    ),
    "cpt": ObjectiveSpec(
        table="text",
        mixed={},
        lineage={"id": [("text", "id")], "input_ids": [("text", "text")], "labels": [("text", "text")]},
        rows_path=f"{_ROOM}.cpt:prepare_rows",
        trainer_path=_TOKEN_TRAINER,
    ),
    "dpo": ObjectiveSpec(
        table="preferences",
        mixed={},
        lineage={
            "id": [("preferences", "id")],
            "input_ids": [_PROMPT, _CHOSEN],
            "labels": [_CHOSEN],
            "rejected_ids": [_PROMPT, _REJECTED],
            "rejected_labels": [_REJECTED],
        },
        rows_path=f"{_ROOM}.dpo:prepare_rows",
        trainer_path=f"{_ROOM}.dpo:PreferenceTrainer",
        sequences=2,
    ),
}
