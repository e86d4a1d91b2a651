"""Preference pairs and single thumbs as objectives. Importing this does not import torch."""

from ft_pipeline.training.objectives.spec import ObjectiveSpec
from ft_pipeline.training.objectives.targets import Target

_PROMPT, _CHOSEN, _REJECTED = (("preferences", name) for name in ("prompt_messages", "chosen", "rejected"))
_RATED = [("feedback", "prompt_messages"), ("feedback", "completion")]
DPO = ObjectiveSpec(
    table="preferences",
    weighted_tables={},
    lineage={
        "id": [("preferences", "id")],
        "input_ids": [_PROMPT, _CHOSEN],
        "labels": [_CHOSEN],
        "rejected_ids": [_PROMPT, _REJECTED],
        "rejected_labels": [_REJECTED],
    },
    rows_path="ft_pipeline.preferences.dpo:prepare_rows",
    fits=("preferences", "Preference pairs"),
    trainer_path="ft_pipeline.preferences.dpo:PreferenceTrainer",
    sequences_per_row=2,
    targets=(
        Target("eval_accuracy", "Held-out pairs ranked right", "share", at_start=0.5),
        Target("eval_margin", "Held-out margin", at_start=0.0),
    ),
    learns_from="preferences",
    has_reference=True,
)
KTO = ObjectiveSpec(
    table="feedback",
    weighted_tables={},
    lineage={
        "id": [("feedback", "id")],
        "source": [("feedback", "label")],
        "input_ids": _RATED,
        "labels": [("feedback", "completion")],
    },
    rows_path="ft_pipeline.preferences.kto:prepare_rows",
    fits=("feedback", "Single thumbs"),
    trainer_path="ft_pipeline.preferences.kto:ThumbTrainer",
    targets=(Target("eval_margin", "Held-out margin between thumbs up and down", at_start=0.0),),
    learns_from="preferences",
    has_reference=True,
)
