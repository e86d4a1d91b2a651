"""`ft exposures`: how often the test rows were used, and what the next test needs."""

from typing import Any

from ft_pipeline.cli.command import Answer, command
from ft_pipeline.cli.display import show_exposures
from ft_pipeline.decide import exposure_ledger
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.decide.exposure import USED_UP, needed_lead
from ft_pipeline.decide.exposure_ledger import Look
from ft_pipeline.decide.looks import exposure_of
from ft_pipeline.decide.notes import exposure_note
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release.candidates import find_candidates
from ft_pipeline.release.champion import history
from ft_pipeline.release.looks import decided_by, ids_of_test_rows, looks_at
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact

NEXT = "next"
"""The name of a tuned model that nobody has looked at."""


@command
def exposures(project: Project) -> Answer:
    """Show how often the test rows were looked at, and how clear the lead of the next model must be.

    Example: ft exposures
    """
    store = ArtifactStore(project.store)
    comparison = current_artifact(store, "comparison")
    if comparison is None:
        raise UserError("There is no comparison yet, so no test rows were used. Run `ft run`.")
    ids, settings = ids_of_test_rows(comparison), project.settings
    records = history(store.root)
    entries = exposure_ledger.read_entries(store.root, exposure_ledger.named_by(records))
    counted = exposure_ledger.counted(entries, records)
    exposure = exposure_of(counted, ids, test_share=settings.data.test_share)
    false_moves = settings.promotion.false_moves
    candidates, _ = find_candidates(comparison, store)
    present = looks_at(whole_comparison(comparison), candidates, decided_by(settings), ids) | {NEXT: Look(NEXT)}
    level = exposure_of(counted, ids, present).level(false_moves, NEXT, is_tuned=True)
    document: dict[str, Any] = {
        "test_conversations": len(ids),
        "looks": exposure.count,
        "designs": exposure.designs,
        "used_up_at": USED_UP,
        "level": level,
        "needed_lead": needed_lead(level),
        "message": exposure_note(exposure, len(ids), false_moves) or None,
        "entries": [
            {
                "entry": entry.sequence,
                "time": entry.time,
                "by": entry.by,
                "compared": bool(entry.compared),
                "looks": [look.name for look in entry.looks],
            }
            for entry in entries
        ],
    }
    return Answer(document, show_exposures)
