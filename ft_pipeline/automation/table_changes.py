"""Finds the tables that were built with other settings, code or library versions than the present ones.

Dagster compares the data versions of a table's inputs, and its code version. It does not know project.yaml, the
excluded rows, or the versions of libraries. The planned spec contains them all.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.execution.planning import only_inputs_differ, steps_in_order
from ft_pipeline.project import Project
from ft_pipeline.step import MissingInput, SpecContext, planned_spec
from ft_pipeline.store.hashing import sha256_of_json
from ft_pipeline.store.remembering_store import RememberingStore


@dataclass(frozen=True)
class TableChanges:
    """The result of one check of the tables."""

    tables: dict[str, str]
    """Table to rebuild → the hash of its planned spec."""
    key: str
    """Identifies this change of these tables."""
    cursor: str
    """For the next check."""
    notes: list[str]
    """Why tables are not rebuilt."""


def find_table_changes(project: Project, cursor: str | None, now: datetime, graph: Collection[str]) -> TableChanges:
    """Compare each table that was built with its planned spec, apart from its inputs, which Dagster follows.

    A change is returned once a day. If the run builds something else, because it runs newer code than this process, the
    table differs again. graph: the assets of the definitions that are loaded.
    """
    today = now.date().isoformat()
    requested = _requested_earlier(cursor, today)
    context = SpecContext(project, RememberingStore(project.store))
    changed: dict[str, str] = {}
    built, notes = [], []
    for step in (step for step in steps_in_order(graph) if step.stage == "tables"):
        last, pointer = context.find(step.name), context.pointer(step.name)
        if last is None or pointer is None:
            continue
        try:
            spec = planned_spec(step, context)
        except (UserError, MissingInput) as error:
            notes.append(f"{step.name}: {first_line(error)}")
            continue
        if not last.is_of(spec) and not only_inputs_differ(last, spec):
            changed[step.name] = spec.hash
            built.append(pointer.when)
    new = {name: spec_hash for name, spec_hash in changed.items() if requested.get(name) != spec_hash}
    notes += [f"{name}: already requested today" for name in changed if name not in new]
    key = f"{', '.join(new)} {sha256_of_json([new, built])[:16]} on {today}"
    return TableChanges(new, key, json.dumps({"day": today, "requested": changed}), notes)


def _requested_earlier(cursor: str | None, today: str) -> Mapping[str, str]:
    """Return what was requested today, and has not been built since."""
    earlier = json.loads(cursor or "{}")
    return earlier["requested"] if earlier.get("day") == today else {}
