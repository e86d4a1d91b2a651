"""Specs of the answers without a language model, which are scored in every project."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ft_pipeline.evaluation.model_kinds import WORD_MODEL
from ft_pipeline.evaluation.rivals.word_model import TEXTS, WHOLE
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.settings.checks import ClassificationMetric
from ft_pipeline.settings.prompt_variant import RETRIEVED, SEARCHED
from ft_pipeline.step import SpecContext, versions_of
from ft_pipeline.steps.shared.scoring_specs import counting_base, evaluation_config
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import ArtifactReference, Spec

INPUT = "rivals/rival_scores"
"""The name of their scores as an input of a comparison."""
CALIBRATED = "calibrated"
MOST_LABELS = 20
"""Among which a base model chooses: each is scored for each question."""


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
    names = [name for name in context.project.settings.evaluation.rivals if name not in (CALIBRATED, RETRIEVED)]
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
    context: SpecContext, own: Artifact | None, names: Sequence[str], word_model: ArtifactReference | None
) -> Spec:
    """Return the spec of the scores of rivals. word_model: the model of that name; None if it is not among them."""
    inputs = {
        "conversations": context.checked_artifact("conversations").reference,
        "base_model": counting_base(context, own),
        **({WORD_MODEL: word_model} if word_model else {}),
    }
    config = {**evaluation_config(context), "rivals": list(names)}
    return Spec("rival_scores", inputs, config, versions_of("sacrebleu", "rouge-score", "scikit-learn"))


def calibrated_artifacts(context: SpecContext, scored: Mapping[str, Artifact]) -> Rivals:
    """Return the scores of the base models' choices among labels: of each base model whose prompts were scored.
    MissingInput if they are not in the store yet."""
    settings, found = context.project.settings, Rivals({}, [])
    labels = _labels(context) if CALIBRATED in settings.evaluation.rivals else []
    fixed = {
        name: variant.model_dump(mode="json")
        for name, variant in settings.prompting.variants.items()
        if not variant.passages and variant.examples == "fixed"
    }
    baselines = {name: each for name, each in scored.items() if labels and name.endswith("/prompt_baseline")}
    for name, baseline in baselines.items():
        searched = baseline.spec["config"]["prompting"]["variants"].get(SEARCHED)
        prompts = {**fixed, SEARCHED: searched} if searched and searched["examples"] == "fixed" else fixed
        inputs = {role: baseline.inputs[role] for role in ("conversations", "base_model")}
        ignored = ignored_while_decoding(context.store.require(*inputs["base_model"]).path)
        config = {
            **evaluation_config(context),
            **ignored,
            "rivals": [CALIBRATED],
            CALIBRATED: {"labels": labels, "variants": prompts or {"plain": {}}},
        }
        versions = versions_of("torch", "transformers", "sacrebleu", "rouge-score")
        scores = context.built_artifact(Spec("calibrated_scores", inputs, config, versions))
        found.left_out.extend(scores.summary.get("left_out", []))
        if scores.summary["rows"]:
            found.inputs[name.replace("prompt_baseline", "calibrated_scores")] = scores
    return found


def _labels(context: SpecContext) -> list[str]:
    """Return the labels of the project's classification, or the few answers of the training rows; none if there are
    neither, or too many."""
    checks = context.project.settings.evaluation.metrics.values()
    declared = next((check.labels for check in checks if isinstance(check, ClassificationMetric)), None)
    if declared is None:
        model = context.built_artifact(_word_model_spec(context))
        if WHOLE not in model.summary["labels"]:
            return []
        declared = model.document(TEXTS)["models"][WHOLE]["labels"]
    return list(declared) if len(declared) <= MOST_LABELS else []


def _word_model_spec(context: SpecContext) -> Spec:
    conversations = context.checked_artifact("conversations").reference
    config = {"seed": context.project.settings.evaluation.seed}
    return Spec(WORD_MODEL, {"conversations": conversations}, config, versions_of("scikit-learn"))
