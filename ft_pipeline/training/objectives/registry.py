"""The objectives by name: the tables that each trains on, and where its code is. Importing this does not import torch,
so that the graph can use it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pkgutil import resolve_name
from typing import Any, Protocol

from ft_pipeline.settings.experiment import ExperimentSettings, Objective
from ft_pipeline.training.objectives.targets import LOSS, LearnsFrom, Target

Column = tuple[str, str]
"""(table, column)."""
UNFILTERED_TABLES = ("preferences", "feedback", "text")
"""Tables whose rows may be near a held-out row. Such rows are left out when the training data is made."""


class PrepareRows(Protocol):
    """Reads the tables of a job and returns its rows (objectives.rows.PreparedRows)."""

    def __call__(self, job: Any, settings: ExperimentSettings, tokenizer: Any, limits: dict[str, int]) -> Any: ...


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective. To add one: a file with its rows and its trainer, a settings section, and an entry below."""

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

    @cached_property
    def prepare_rows(self) -> PrepareRows:
        """The function that prepares the rows. The first use imports its module."""
        function: PrepareRows = resolve_name(self.rows_path)
        return function

    @cached_property
    def trainer(self) -> Any:
        """The class that trains. The first use imports torch."""
        return resolve_name(self.trainer_path)


_PACKAGE = "ft_pipeline.training.objectives"
_TOKEN_TRAINER = "ft_pipeline.training.trainer.token_trainer:TokenTrainer"
_SFT_COLUMNS = [("conversations", "messages"), ("distilled", "messages"), ("text", "text")]
"""The columns that sft may train on."""
_PROMPT, _CHOSEN, _REJECTED = (("preferences", name) for name in ("prompt_messages", "chosen", "rejected"))
_RATED = [("feedback", "prompt_messages"), ("feedback", "completion")]

_ASKED = [("unlabelled", "messages"), ("conversations", "messages")]
"""The prompts that a teacher of `distill` may answer. Its answers depend on the examples in its prompt, too."""


def _asked_tables(settings: ExperimentSettings) -> list[str]:
    return [name for name in settings.distill.rows if name != "conversations"] if settings.distill else []


OBJECTIVES: Mapping[Objective, ObjectiveSpec] = {
    "sft": ObjectiveSpec(
        table=None,
        weighted_tables={"distilled": "distilled", "replay": "text"},
        lineage={
            "id": [(table, "id") for table, _ in _SFT_COLUMNS],
            "input_ids": _SFT_COLUMNS,
            "labels": _SFT_COLUMNS,
        },
        rows_path=f"{_PACKAGE}.sft:prepare_rows",
        fits=("conversations", "Answers to imitate"),
        trainer_path=_TOKEN_TRAINER,
    ),
    "cpt": ObjectiveSpec(
        table="text",
        weighted_tables={},
        lineage={"id": [("text", "id")], "input_ids": [("text", "text")], "labels": [("text", "text")]},
        rows_path=f"{_PACKAGE}.cpt:prepare_rows",
        fits=("text", "Articles"),
        trainer_path=_TOKEN_TRAINER,
    ),
    "dpo": ObjectiveSpec(
        table="preferences",
        weighted_tables={},
        lineage={
            "id": [("preferences", "id")],
            "input_ids": [_PROMPT, _CHOSEN],
            "labels": [_CHOSEN],
            "rejected_ids": [_PROMPT, _REJECTED],
            "rejected_labels": [_REJECTED],
        },
        rows_path=f"{_PACKAGE}.dpo:prepare_rows",
        fits=("preferences", "Preference pairs"),
        trainer_path=f"{_PACKAGE}.dpo:PreferenceTrainer",
        sequences_per_row=2,
        targets=(
            Target("eval_accuracy", "Held-out pairs ranked right", "share", at_start=0.5),
            Target("eval_margin", "Held-out margin", at_start=0.0),
        ),
        learns_from="preferences",
    ),
    "kto": ObjectiveSpec(
        table="feedback",
        weighted_tables={},
        lineage={
            "id": [("feedback", "id")],
            "source": [("feedback", "label")],
            "input_ids": _RATED,
            "labels": [("feedback", "completion")],
        },
        rows_path=f"{_PACKAGE}.kto:prepare_rows",
        fits=("feedback", "Single thumbs"),
        trainer_path=f"{_PACKAGE}.kto:ThumbTrainer",
        targets=(Target("eval_margin", "Held-out margin between thumbs up and down", at_start=0.0),),
        learns_from="preferences",
    ),
    "grpo": ObjectiveSpec(
        table=None,
        weighted_tables={},
        lineage={
            "id": [("conversations", "id")],
            "input_ids": [("conversations", "messages")],
            "labels": [("conversations", "messages")],
            "conversation": [("conversations", "messages"), ("conversations", "tools")],
        },
        rows_path=f"{_PACKAGE}.grpo:prepare_rows",
        trainer_path=f"{_PACKAGE}.grpo:GroupTrainer",
        targets=(Target("eval_reward", "Held-out reward"),),
        learns_from="rewards",
    ),
    "distill": ObjectiveSpec(
        table=None,
        weighted_tables={},
        lineage={
            "id": [(table, "id") for table, _ in _ASKED],
            **dict.fromkeys(
                ("input_ids", "labels", "top_ids", "top_log_probabilities", "rest", "teacher_prompt", "answer"), _ASKED
            ),
        },
        rows_path=f"{_PACKAGE}.distill:prepare_rows",
        trainer_path=f"{_PACKAGE}.distill:DistributionTrainer",
        logit_copies=2,
        targets=(Target("eval_loss", "Held-out divergence", "nats per token", lower_is_better=True),),
        chosen_tables=_asked_tables,
    ),
}
