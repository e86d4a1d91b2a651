"""Read comparison.json, of this version and of the versions before it; and the decision about it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft_pipeline.decide import old_documents
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.errors import UserError
from ft_pipeline.store.asset_pointers import current_artifact

if TYPE_CHECKING:
    from ft_pipeline.store.artifacts import Artifact, ArtifactStore
    from ft_pipeline.store.spec import ArtifactReference

ADVICE = "advice.json"
"""What the artifact of a feature's step adds to the recommendation and the report: title, sentences, picture (in
Markdown, or empty). Absent where it has nothing to say."""


class UnknownComparison(UserError, ValueError):
    """A document that is no comparison of this version or an older one."""


def comparison_of(document: Mapping[str, Any]) -> Comparison:
    """Return the comparison of a document as people see it (as_shown). Raises UnknownComparison if it is none that this
    version knows."""
    return as_shown(whole_comparison_of(document))


def read_comparison(artifact: "Artifact") -> Comparison:
    """Return the comparison in an artifact as people see it."""
    return comparison_of(artifact.document("comparison.json"))


def whole_comparison_of(document: Mapping[str, Any]) -> Comparison:
    """Return all of the comparison of a document. Only for what decides: nothing of it is shown. Raises
    UnknownComparison if it is none that this version knows."""
    try:
        if "version" not in document:
            return old_documents.read(document)
        return Comparison.model_validate({**document, "names_metric": old_documents.names_metric(document)})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnknownComparison(
            "comparison.json was not written by this version of ft or an older one. "
            "Run `ft run`, or install a newer version."
        ) from error


def whole_comparison(artifact: "Artifact") -> Comparison:
    """Return all of the comparison in an artifact. Only for what decides."""
    return whole_comparison_of(artifact.document("comparison.json"))


def decision_about(store: "ArtifactStore", comparison: "Artifact | None") -> dict[str, Any]:
    """Return decision.json of the current decision if it is about a comparison; empty if it is about another one."""
    decision = current_artifact(store, "decision")
    if decision is None or comparison is None or decision.inputs["comparison"] != comparison.reference:
        return {}
    return decision.document("decision.json")


def has_advice(artifact: "Artifact") -> bool:
    """Return whether the step of a feature has something to say in the recommendation."""
    return (artifact.path / ADVICE).is_file()


def read_advice(store: "ArtifactStore", inputs: Mapping[str, "ArtifactReference"]) -> list[dict[str, Any]]:
    """Return what steps of features say, by the inputs of a recommendation."""
    found = (store.require(*reference) for reference in inputs.values())
    return [artifact.document(ADVICE) for artifact in found if has_advice(artifact)]
