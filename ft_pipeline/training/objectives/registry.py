"""The objectives by name. Importing this does not import torch, so that the graph can use it."""

from collections.abc import Mapping
from pkgutil import resolve_name

from ft_pipeline.settings.experiment import ExperimentSettings, Objective
from ft_pipeline.settings.objectives import objective_rules
from ft_pipeline.training.objectives.spec import ObjectiveSpec
from ft_pipeline.training.objectives.targets import Target

UNFILTERED_TABLES = ("preferences", "feedback", "text")
"""Tables whose rows may be near a held-out row. Such rows are left out when the training data is made."""
_PACKAGE = "ft_pipeline.training.objectives"
_TOKEN_TRAINER = "ft_pipeline.training.trainer.token_trainer:TokenTrainer"
_SFT_COLUMNS = [("conversations", "messages"), ("distilled", "messages"), ("text", "text")]
"""The columns that sft may train on."""
_ASKED = [("unlabelled", "messages"), ("conversations", "messages")]
"""The prompts that a teacher of `distill` may answer. Its answers depend on the examples in its prompt, too."""


def _asked_tables(settings: ExperimentSettings) -> list[str]:
    return [name for name in settings.distill.rows if name != "conversations"] if settings.distill else []


_CORE = {
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
OBJECTIVES: Mapping[Objective, ObjectiveSpec] = _CORE | {
    name: resolve_name(rules.spec) for name, rules in objective_rules().items() if rules.spec
}
