"""The files of the user's lm-eval tasks, as an input of the steps that run the tasks or compare rows with them."""

from collections.abc import Mapping

from ft_pipeline.evaluation.scoring.task_files import hash_files
from ft_pipeline.step import SpecContext
from ft_pipeline.store.spec import ArtifactReference, Spec


def task_files(context: SpecContext) -> dict[str, str]:
    """The files of evaluation.include_path, if the settings name tasks."""
    settings = context.project.settings.evaluation
    return (
        hash_files(context.project.resolve_path(settings.include_path))
        if settings.tasks and settings.include_path
        else {}
    )


def task_inputs(context: SpecContext, files: Mapping[str, str]) -> dict[str, ArtifactReference]:
    """The copy of the task files in the store, as an input of the steps that run the tasks. files: name → SHA-256."""
    if not files:
        return {}
    folder = str(context.project.resolve_path(context.project.settings.evaluation.include_path or ""))
    spec = Spec("evaluation_tasks", config={"files": dict(files)}, handling={"folder": folder})
    return {"tasks": context.built_artifact(spec).reference}
