"""`ft sweep`: train variations of an experiment, and choose one by its validation loss."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="search",
    about="Trainings that vary an experiment's settings, within a budget.",
    docs="search.md",
    commands={"sweep": "ft_pipeline.search.commands:sweep"},
)
