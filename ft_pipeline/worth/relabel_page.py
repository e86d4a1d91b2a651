"""The page on which a person labels probably wrong rows again, blind to which label a row has.

A row is asked with its own label and the likely one, in an order that its id draws. The person can choose another
label, or leave the row as it is.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_forms import read_form, refuse, show
from ft_pipeline.project import Project
from ft_pipeline.store.locks import project_lock
from ft_pipeline.tables.relabels import Relabel, add_relabel, read_relabels

TEMPLATES = Path(__file__).parent / "templates"
UNSURE = ""
"""The choice of who cannot tell."""


@dataclass(frozen=True)
class Asked:
    """A row to label again."""

    id: str
    source: str
    question: str
    label: str
    likely: str

    @property
    def choices(self) -> tuple[str, str]:
        """Both labels, in an order that tells nothing."""
        pair = (self.label, self.likely)
        return pair if hashlib.sha256(self.id.encode()).digest()[0] % 2 else pair[::-1]


def asked_rows(document: Mapping[str, Any], number: int) -> list[Asked]:
    """Return the surest so many train rows of the document of `ft worth`."""
    rows = [row for row in document["wrong_labels"]["rows"] if row["can_be_asked"]]
    return [Asked(row["id"], row["source"], row["question"], row["label"], row["likely"]) for row in rows[:number]]


class RelabelPage:
    """Asks about rows in order, and shows after the last one what was decided."""

    def __init__(
        self,
        root: Path,
        rows: Sequence[Asked],
        labels: Sequence[str],
        on_end: Callable[[], None],
        require_rows: Callable[[], None] = lambda: None,
    ) -> None:
        """root: the project folder. labels: all that a row may get. on_end: called when the result was shown.
        require_rows: raises UserError if rows were erased since."""
        self.root, self.rows, self.labels = root, rows, labels
        self.on_end, self.require_rows = on_end, require_rows

    def app(self) -> Starlette:
        """Return the web application."""
        routes = [
            Route("/", self._show),
            Route("/label", self._label, methods=["POST"]),
            Route("/result", self._end, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={UserError: refuse})

    def decided(self) -> dict[str, Relabel]:
        """Return the decisions about these rows."""
        return {name: each for name, each in read_relabels(self.root).items() if name in {row.id for row in self.rows}}

    def _show(self, request: Request) -> Response:
        """Show the row that is asked for, or the next one."""
        own, wanted = self.decided(), request.query_params.get("item")
        open_rows = [row for row in self.rows if row.id not in own]
        row = next((row for row in self.rows if row.id == wanted), open_rows[0] if open_rows else None)
        progress: dict[str, Any] = {"done": len(self.rows) - len(open_rows), "of": len(self.rows)}
        if row is None:
            return show(TEMPLATES, "relabeled.html.jinja", back=self.rows[-1].id, **progress)
        place = self.rows.index(row)
        before = self.rows[place - 1].id if place else None
        return show(
            TEMPLATES,
            "relabel.html.jinja",
            row=row,
            places={label: str(place) for place, label in enumerate(self.labels)},  # a form keeps numbers as they are
            others=[label for label in self.labels if label not in row.choices],
            chosen=None if row.id not in own else own[row.id].label or UNSURE,
            back=before if before in own else None,
            position=place + 1,
            **progress,
        )

    async def _label(self, request: Request) -> Response:
        """Record a decision, and go on with the next row."""
        form = await read_form(request)
        return await run_in_threadpool(self._record, form)

    def _record(self, form: Mapping[str, str]) -> Response:
        row = next((row for row in self.rows if row.id == form.get("item")), None)
        place = form.get("label", form.get("other"))  # the button beside the list has no name
        if row is None or place not in (UNSURE, *map(str, range(len(self.labels)))):
            raise UserError("This is no label of one of the rows. Choose one on the page.")
        label = None if place == UNSURE else self.labels[int(place)]
        with project_lock(Project(self.root).store).hold(shared=True):
            self.require_rows()
            last = self.decided().get(row.id)
            if last is None or last.label != label:  # a form that is sent twice counts once
                add_relabel(self.root, Relabel(row.id, row.source, row.label, label))
        return RedirectResponse("/", status_code=303)

    def _end(self, request: Request) -> Response:
        """Show what was decided, and end."""
        own = self.decided()
        if any(row.id not in own for row in self.rows):
            return RedirectResponse("/", status_code=303)
        lines = result_lines(self.rows, own)
        return show(TEMPLATES, "relabel_result.html.jinja", background=BackgroundTask(self.on_end), lines=lines)


def count_decided(rows: Sequence[Asked], decided: Mapping[str, Relabel]) -> dict[str, int]:
    """Return how often each side was chosen: kept, likely, other, unsure; and how many rows are open."""
    counts = dict.fromkeys(("kept", "likely", "other", "unsure", "open"), 0)
    for row in rows:
        if row.id not in decided:
            side = "open"
        else:
            sides = {row.label: "kept", row.likely: "likely", None: "unsure"}
            side = sides.get(decided[row.id].label, "other")
        counts[side] += 1
    return counts


def result_lines(rows: Sequence[Asked], decided: Mapping[str, Relabel]) -> list[str]:
    """Return what was decided, and what to do next, as sentences."""
    counts = count_decided(rows, decided)
    changed = counts["likely"] + counts["other"]
    lines = [
        f"Of {len(rows)} rows, {counts['kept']} keep their label, {counts['likely']} get the likely one, "
        f"{counts['other']} another one; {counts['unsure']} are unsure, and {counts['open']} open."
    ]
    if changed:
        lines.append(
            "Raw files are unchanged. To see what the new labels bring, copy an experiment, write `data: {relabels: "
            "true}` into the copy, and run `ft run`: `ft compare` has both on the same test rows."
        )
    return lines
