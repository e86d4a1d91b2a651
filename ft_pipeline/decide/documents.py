"""Read comparison.json: of this version, and of the versions before it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft_pipeline.decide import old_documents
from ft_pipeline.decide.comparison import Comparison

if TYPE_CHECKING:
    from ft_pipeline.store.artifacts import Artifact


def comparison_of(document: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a document. Raises ValueError if it is none."""
    if "version" in document:
        return Comparison.model_validate(document)
    try:
        return old_documents.read(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a comparison: {error!r}") from error


def read_comparison(artifact: "Artifact") -> Comparison:
    """Return the comparison in an artifact."""
    return comparison_of(artifact.document("comparison.json"))
