"""Which assets there are, and which of them a project uses."""

from importlib import import_module

from ft_pipeline import features
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, used_steps


def load_steps() -> None:
    """Fill STEPS. A plan lists steps that are ready at the same time in this order: by stage."""
    from ft_pipeline.steps import load_step, modules, raw, tables

    steps = (*raw.STEPS, *tables.STEPS, *map(load_step, modules()))
    for step in sorted(steps, key=lambda step: step.stage):
        STEPS.setdefault(step.name, step)


def graph_of_project() -> set[str]:
    """Return the assets that the graph of the served project has: those that its settings and files ask for."""
    load_steps()
    try:
        project = Project.find()
        others = {name for name, target in features.assets().items() if _is_used(target, project)}
    except UserError:  # every run reports that error
        return whole_graph()
    return used_steps(project) | others


def whole_graph() -> set[str]:
    """Return the assets of all steps and features."""
    load_steps()
    return {*STEPS, *features.assets()}


def _is_used(target: str, project: Project) -> bool:
    """Return whether a project has an asset of a feature that is no step."""
    is_used: bool = import_module(target.partition(":")[0]).used(project)
    return is_used
