"""`ft worth`: what each group of rows is worth, and which labels are probably wrong."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="worth",
    about="What each source of rows is worth, and which labels are probably wrong.",
    docs="worth.md",
    settings={"project": "ft_pipeline.worth.settings:WorthKeys"},
    steps={"worth": "ft_pipeline.worth.worth"},
    feeds={"recommendation": ["worth"]},
    commands={"worth": "ft_pipeline.worth.commands:worth", "relabel": "ft_pipeline.worth.commands:relabel"},
)
