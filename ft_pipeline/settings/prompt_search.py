"""The search of a prompt (`ft prompt`)."""

from pydantic import Field

from ft_pipeline.settings.yaml_file import Section

MOST_ROWS = 64
"""Validation conversations that prompts are compared on: the first ones by their ids, which are hashes."""


class PromptSearchSettings(Section):
    """Search a prompt for each base model on the train and validation rows. The comparison scores the best one."""

    tries: int = Field(40, ge=1, le=1000)
    """Number of prompts that are tried, those of the project among them."""
    most_examples: int = Field(8, ge=0, le=64)
    """The largest number of examples in a prompt."""
