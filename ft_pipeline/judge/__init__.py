"""A judge: a model that says which of two answers is better."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="judge",
    about="A model behind an endpoint compares the answers of two models, in pairs.",
    docs="judge.md",
    settings={"evaluation": "ft_pipeline.judge.settings:JudgeKeys"},
    steps={"judgements": "ft_pipeline.judge.judgements"},
    feeds={"comparison": ["judgements"]},
    hooks={
        "compared_by": "ft_pipeline.judge.opinions:compared_by",
        "opinions": "ft_pipeline.judge.opinions:opinions",
    },
)
