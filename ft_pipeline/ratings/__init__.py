"""Ratings: people compare the answers of two models, blind."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="ratings",
    about="People compare the answers of two models, blind, and their verdicts decide.",
    docs="ratings.md",
    steps={"ratings": "ft_pipeline.ratings.ratings"},
    feeds={"comparison": ["ratings"], "judgements": ["ratings"]},
    commands={"rate": "ft_pipeline.ratings.commands:rate"},
    choices={"copied_row": {"ratings": "ft_pipeline.ratings.rating_ledger:is_row"}},
    hooks={"verified": "ft_pipeline.ratings.rating_ledger:verified"},
)
