"""Audit: from a score to the raw bytes that it came from, by manifests and ledgers alone; the key that signs them."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="audit",
    about="A score is followed to its raw bytes, and every record is checked.",
    docs="audit.md",
    commands={
        "audit": "ft_pipeline.audit.commands:audit",
        "keys": "ft_pipeline.audit.keys:app",
        "anchor": "ft_pipeline.audit.keys:anchor",
    },
)
