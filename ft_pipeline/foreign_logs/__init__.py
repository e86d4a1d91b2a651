"""`ft compare --from`: logs of other evaluation tools, compared with the statistics of the pipeline."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="foreign_logs",
    about="Compares models by logs of lm-eval, Inspect or promptfoo, or by a table of scores.",
    docs="foreign-logs.md",
    choices={"compare": {"logs": "ft_pipeline.foreign_logs.answer:answer_of"}},
)
