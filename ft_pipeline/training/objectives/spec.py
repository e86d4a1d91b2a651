"""An objective as a record: the tables that it trains on, and where its code is. This imports no torch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pkgutil import resolve_name
from typing import Any, Protocol

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.training.objectives.targets import LOSS, LearnsFrom, Target

Column = tuple[str, str]
"""(table, column)."""


class PrepareRows(Protocol):
    """Reads the tables of a job and returns its rows (objectives.rows.PreparedRows)."""

    def __call__(self, job: Any, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> Any: ...


@dataclass(frozen=True)
class AnswerGroups:
    """The answers that a model draws to each prompt, and trains on."""

    copies: int
    """Answers to a prompt."""
    max_new_tokens: int
    keeps_start: bool
    """Whether a copy of the weights of the start reads the answers, too."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective. To add one: a file with its rows and its trainer, rules of its settings, and an entry."""

    table: str | None
    """The table that it always trains on in addition to conversations, or None."""
    weighted_tables: Mapping[str, str]
    """Weight in the experiment's `data.weights` → the table that trains if this weight is above 0."""
    lineage: Mapping[str, Collection[Column]]
    """Column of the training data → the columns that it is made from. Tables that do not train are skipped."""
    rows_path: str
    """`module:function` of `prepare_rows`."""
    trainer_path: str
    """`module:class` of the trainer (TokenTrainer or a subclass)."""
    sequences_per_row: int = 1
    """Number of token sequences in a row."""
    logit_copies: int = 1
    """Number of 32-bit forms of a slice of logits that the loss needs at a time."""
    chosen_tables: Callable[[ExperimentSettings], list[str]] = lambda settings: []
    """Returns the tables that the experiment's settings name."""
    fits: tuple[str, str] | None = None
    """The table whose rows it is for, and what these rows are. None: more than a table decides (see
    recommendation/fitting.py)."""
    targets: Sequence[Target] = (LOSS,)
    """What it is to improve on held-out rows, the most important first."""
    learns_from: LearnsFrom = "answers"
    """What makes its answers better. The likelihood of references is evidence only for what imitates."""
    has_reference: bool = False
    """Whether the model that training starts from reads all rows once."""
    groups: Callable[[ExperimentSettings], AnswerGroups | None] = lambda settings: None
    """Returns how many answers the model draws to each prompt; None if it trains on rows."""
    facts_path: str | None = None
    """`module:function` of (project, settings, artifact of the base model) → keys that the config of the adapter has in
    addition."""

    def tables(self, settings: ExperimentSettings) -> list[str]:
        """Return the tables that an experiment trains on in addition to conversations."""
        mixed = [table for weight, table in self.weighted_tables.items() if getattr(settings.data.weights, weight) > 0]
        return [*([self.table] if self.table else []), *mixed, *self.chosen_tables(settings)]

    def lineage_from(self, tables: Collection[str]) -> dict[str, list[Column]]:
        """Return the part of `lineage` that training data made from `tables` has."""
        lineage = {
            name: [column for column in columns if column[0] in tables] for name, columns in self.lineage.items()
        }
        return {name: columns for name, columns in lineage.items() if columns}

    def facts(self, *arguments: Any) -> dict[str, Any]:
        """Return the keys that the config of an adapter has in addition. arguments: as of `facts_path`."""
        facts: dict[str, Any] = resolve_name(self.facts_path)(*arguments) if self.facts_path else {}
        return facts

    @cached_property
    def prepare_rows(self) -> PrepareRows:
        """The function that prepares the rows. The first use imports its module."""
        function: PrepareRows = resolve_name(self.rows_path)
        return function

    @cached_property
    def trainer(self) -> Any:
        """The class that trains. The first use imports torch."""
        return resolve_name(self.trainer_path)
