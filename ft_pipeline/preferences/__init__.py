"""Preferences: training on pairs of answers (dpo), and on answers with a thumb (kto)."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="preferences",
    about="A model learns which of two answers people prefer, or which answers have a thumb up.",
    docs="preferences.md",
    settings={"objective": "ft_pipeline.preferences.settings:PreferenceKeys"},
    objectives={"dpo": "ft_pipeline.preferences.settings:DPO", "kto": "ft_pipeline.preferences.settings:KTO"},
)
