"""The experiments with their state: `ft experiments`."""

from collections.abc import Sequence
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.errors import UserError
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.planning import PlannedStep, plan
from ft_pipeline.execution.run import current_comparison
from ft_pipeline.project import Project


def list_experiments(project: Project) -> list[dict[str, Any]]:
    """Return the rows of `ft experiments --json`. Raises UserError if project.yaml is invalid."""
    load_steps()
    _ = project.settings
    comparison = current_comparison(project)
    rows = [_experiment_row(project, name, comparison) for name in project.experiment_names()]
    planned = plan(project, [row["name"] for row in rows if row["error"] is None])
    rows_with_state = [
        row if row["error"] else row | {"state": _experiment_state(planned, row["name"])} for row in rows
    ]
    return rows_with_state + [_broken_row(name, error) for name, error in project.misnamed_files().items()]


def _broken_row(name: str, error: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("objective", "technique", "base_model", "primary_score", "primary_metric"))
    return {"name": name, **unknown, "state": "broken", "error": error}


def _experiment_row(project: Project, name: str, comparison: Comparison | None) -> dict[str, Any]:
    try:
        settings = project.experiment(name)
    except UserError as error:
        return _broken_row(name, str(error))
    return {
        "name": name,
        "objective": settings.objective,
        "technique": settings.technique,
        "base_model": settings.base_model,
        "state": None,
        "primary_score": _primary_score(comparison, name),
        "primary_metric": _primary_metric(comparison),
        "error": None,
    }


def _experiment_state(planned: Sequence[PlannedStep], experiment: str) -> str:
    """`never_run` until the experiment's model is scored, then `stale` or `fresh`."""
    own = [step for step in planned if step.experiment == experiment]
    if next(step for step in own if step.asset == "scores").state == "never_run":
        return "never_run"
    return "stale" if any(step.runs for step in own) else "fresh"


def _primary_metric(comparison: Comparison | None) -> str | None:
    """What the primary score is, e.g. `loss (nats per answer token, lower is better)`."""
    metric = comparison.metric() if comparison else None
    return f"{metric.label} ({metric.unit}, {metric.direction})" if metric else None


def _primary_score(comparison: Comparison | None, experiment: str) -> float | None:
    """The primary score of the experiment's merged model under its own prompt; None if it has none."""
    rows = comparison.ranked() if comparison else []
    merged = next((row for row in rows if row.name == f"{experiment}/merged"), None)
    return merged.scores[comparison.primary].value if comparison and merged else None
