"""The teacher that reads a student's answers during training."""

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore


def reading_teacher(
    store: ArtifactStore, settings: ExperimentSettings, data: Artifact, base: Artifact
) -> dict[str, Artifact]:
    """Return the input `teacher` of an adapter: the model that reads the student's answers. Empty if none does, or if
    it is the model `base` that is trained.

    data: the training data, whose distributions are those of the same teacher.
    """
    if not settings.is_on_policy:
        return {}
    distributions = store.require(*data.inputs["teacher_distributions"])
    teacher = store.require(*distributions.inputs["base_model"])
    return {} if teacher.reference == base.reference else {"teacher": teacher}
