"""Copies of a store or of a whole project at another place: pushed, pulled, backed up, restored."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="copies",
    about="Copies of a store, and of a whole project, elsewhere.",
    docs="copies.md",
    commands={
        "store": "ft_pipeline.copies.commands:app",
        "backup": "ft_pipeline.copies.backup_commands:backup",
        "restore": "ft_pipeline.copies.backup_commands:restore",
    },
)
