"""`ft exposures`: how often the test rows were used, and what the next test needs."""

from typing import Any

from ft_pipeline.cli import display
from ft_pipeline.cli.common import JsonOption, ProjectOption, open_project, print_result, stdout
from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.exposure import USED_UP, needed_lead
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.champion import history
from ft_pipeline.release.recorded_decision import ids_of_test_rows
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact


def exposures(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show how many tests of candidates the test rows were part of, and how clear the lead of the next one must be.

    Example: ft exposures
    """
    print_result(_exposures(open_project(project)), as_json, lambda shown: display.show_exposures(stdout, shown))


def _exposures(project: Project) -> dict[str, Any]:
    store = ArtifactStore(project.store)
    comparison = current_artifact(store, "comparison")
    if comparison is None:
        raise UserError("There is no comparison yet, so no test rows were used. Run `ft run`.")
    ids, settings = ids_of_test_rows(comparison), project.settings
    exposure = exposure_ledger.read_exposure(store.root, ids, history(store.root), test_share=settings.data.test_share)
    level = exposure.level(settings.promotion.false_moves, 1)
    end = exposure.describe_end(len(ids), settings.promotion.false_moves) if exposure.is_used_up else None
    return {
        "test_conversations": len(ids),
        "tests": exposure.count,
        "used_up_at": USED_UP,
        "level": level,
        "needed_lead": needed_lead(level),
        "message": end,
        "entries": [
            {
                "entry": entry["sequence"],
                "time": entry["time"],
                "by": entry["by"],
                "candidates": [test["name"] for test in entry["candidates"]],
            }
            for entry in exposure_ledger.read_entries(store.root)
        ],
    }
