"""Experiments that trained on different data sets, and share one set of rows from now on."""

from ft_pipeline.exchange.experiment_draft import ExperimentDraft
from ft_pipeline.exchange.new_project import Plan


def report_mixed(plan: Plan) -> None:
    """Report experiments of one objective that train on different data sets: here they share the raw folders."""
    by_objective: dict[str, list[ExperimentDraft]] = {}
    for draft in plan.drafts:
        by_objective.setdefault(draft.settings["objective"], []).append(draft)
    for drafts in by_objective.values():
        if len({tuple(sorted(draft.data_sets)) for draft in drafts}) == 1:
            continue
        for draft in drafts:
            draft.change(
                f"trains on {', '.join(draft.data_sets) or 'nothing that is here'}",
                "all rows of the objective",
                "Theirs trains each experiment on its own data sets; ours all of one objective on the same rows. "
                "Import them one by one into projects of their own to keep them apart.",
            )
