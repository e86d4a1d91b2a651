"""`ft serve`: a model as an OpenAI-compatible endpoint, which answers as it was scored."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="serving",
    about="A model is served as an OpenAI-compatible endpoint, and follows the champion.",
    docs="serving.md",
    commands={"serve": "ft_pipeline.serving.commands:serve"},
)
