"""Erase rows on request, everywhere in the project."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="erasure",
    about="Rows are erased on request, from raw files, store and logs.",
    docs="audit.md",
    commands={"erase": "ft_pipeline.erasure.commands:erase", "forget": "ft_pipeline.erasure.commands:erase"},
    hooks={"downloaded": "ft_pipeline.erasure.downloads:replace_erased_rows"},
)
