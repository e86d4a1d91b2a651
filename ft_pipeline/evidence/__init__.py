"""`ft export --format evidence`: what a decision rests on, signed, and a program that checks it with Python alone."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="evidence",
    about="What a decision rests on, for somebody who does not trust the project.",
    docs="evidence.md",
    choices={"export": {"evidence": "ft_pipeline.evidence.bundle:export_evidence"}},
)
