"""Specs of the answers without a language model, which are scored in every project."""

from typing import NamedTuple

from ft_pipeline.defs.scoring_specs import counting_base, evaluation_config
from ft_pipeline.step import SpecContext, versions_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import ArtifactReference, Spec

INPUT = "rivals/rival_scores"
"""The name of their scores as an input of a comparison."""
WORD_MODEL = "word_model"


class Rivals(NamedTuple):
    """The scores of the rivals."""

    inputs: dict[str, Artifact]
    """Inputs of a comparison."""
    left_out: list[str]
    """A sentence for each rival that has no row."""


def rival_artifacts(context: SpecContext, own: Artifact | None) -> Rivals:
    """Return the scores of the rivals. MissingInput if they are not in the store yet.

    own: scores of a model that they are compared with. Without any, rivals are not scored.
    """
    names: list[str] = list(context.project.settings.evaluation.rivals)
    if own is None or not names:
        return Rivals({}, [])
    model, left_out = None, []
    if WORD_MODEL in names:
        built = context.built_artifact(_word_model_spec(context))
        if reason := built.summary["left_out"]:
            names.remove(WORD_MODEL)
            left_out = [f"{WORD_MODEL} is left out: {reason}."]
        else:
            model = built.reference
    if not names:
        return Rivals({}, left_out)
    scores = context.built_artifact(rival_spec(context, own, names, model))
    return Rivals({INPUT: scores} if scores.summary["rows"] else {}, [*left_out, *scores.summary.get("left_out", [])])


def rival_spec(
    context: SpecContext, own: Artifact | None, names: list[str], word_model: ArtifactReference | None
) -> Spec:
    """Return the spec of the scores of rivals. word_model: the model of that name; None if it is not among them."""
    inputs = {
        "conversations": context.checked_artifact("conversations").reference,
        "base_model": counting_base(context, own),
        **({WORD_MODEL: word_model} if word_model else {}),
    }
    config = {**evaluation_config(context), "rivals": names}
    return Spec("rival_scores", inputs, config, versions_of("sacrebleu", "rouge-score", "scikit-learn"))


def _word_model_spec(context: SpecContext) -> Spec:
    conversations = context.checked_artifact("conversations").reference
    config = {"seed": context.project.settings.evaluation.seed}
    return Spec(WORD_MODEL, {"conversations": conversations}, config, versions_of("scikit-learn"))
