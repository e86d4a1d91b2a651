"""Read comparison.json: of this version, and of the versions before it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft_pipeline.decide import old_documents
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.errors import UserError

if TYPE_CHECKING:
    from ft_pipeline.store.artifacts import Artifact


class UnknownComparison(UserError, ValueError):
    """A document that is no comparison of this version or an older one."""


def comparison_of(document: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a document. Raises UnknownComparison if it is none that this version knows."""
    try:
        return Comparison.model_validate(document) if "version" in document else old_documents.read(document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnknownComparison(
            "comparison.json was not written by this version of ft or an older one. "
            "Run `ft run`, or install a newer version."
        ) from error


def read_comparison(artifact: "Artifact") -> Comparison:
    """Return the comparison in an artifact."""
    return comparison_of(artifact.document("comparison.json"))
