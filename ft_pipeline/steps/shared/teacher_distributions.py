"""The spec of a teacher's distributions: the input of the training data of the objective `distill`."""

import contextlib
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.tuned_variants import looks_up
from ft_pipeline.models.generation_config import ignored_while_decoding
from ft_pipeline.project import Project
from ft_pipeline.settings.distill import OWN_PROMPT, DistillSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import SpecContext, versions_of
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.spec import Spec

_TRAINING_KEYS = {"divergence", "jsd_beta", "on_policy"}
"""Settings that change how the student is trained, but nothing of the teacher."""
_IDENTITY_KEYS = {"teacher", "revision", "variant"}
"""Settings whose content is in the spec itself: the teacher's fingerprint and the variant."""


def teacher_distributions_spec(
    context: SpecContext, settings: ExperimentSettings, student: Artifact, teacher: Artifact
) -> Spec:
    """Return the spec of a teacher's answers and distributions. student, teacher: base models.

    A table is an input only if it is asked for, or if passages are taken from it. UserError if the variant is unknown.
    """
    distill = _settings(settings)
    variant = _variant(context, distill)
    inputs = {"base_model": teacher, "conversations": context.checked_artifact("conversations")}
    if teacher.reference != student.reference:
        inputs["student"] = student
    if "unlabelled" in distill.rows:
        inputs["unlabelled"] = context.checked_artifact("unlabelled")
    if variant.get("passages"):
        inputs["text"] = context.checked_artifact("text")
    config = {
        "distill": distill.model_dump(mode="json", exclude=_TRAINING_KEYS | _IDENTITY_KEYS),
        "variant": variant,
        "system_prompt": settings.data.system_prompt,
        "seed": context.project.settings.evaluation.seed,
        **ignored_while_decoding(teacher.path),
    }
    versions = versions_of("torch", "transformers", *(["bm25s"] if looks_up(variant) else []))
    references = {name: artifact.reference for name, artifact in inputs.items()}
    return Spec("teacher_distributions", references, config, versions, seed=distill.seed)


def asks_a_teacher(project: Project) -> bool:
    """Whether the training data of an experiment needs a teacher's distributions, which are then made first."""
    for name in project.experiment_names():
        with contextlib.suppress(UserError):
            if project.experiment(name).objective == "distill":
                return True
    return False


def teacher_model(settings: ExperimentSettings) -> tuple[str, str | None] | None:
    """Return (model, revision) of the teacher; None if it is the experiment's own base model."""
    distill = _settings(settings)
    return None if distill.teacher == OWN_PROMPT else (distill.teacher, distill.revision)


def _settings(settings: ExperimentSettings) -> DistillSettings:
    assert settings.distill is not None
    return settings.distill


def _variant(context: SpecContext, distill: DistillSettings) -> dict[str, Any]:
    """Return the variant of the teacher's prompt as project.yaml defines it; an empty one if none is named."""
    if distill.variant is None:
        return {}
    variants = context.project.settings.prompting.variants
    if distill.variant not in variants:
        names = ", ".join(variants) or "none: there are no variants"
        raise UserError(f"distill.variant {distill.variant!r} is not in prompting.variants. Choose from: {names}.")
    return variants[distill.variant].model_dump(mode="json")
