"""The page on which a person compares answers: one HTML form per pair. It works without scripts."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ft_pipeline.errors import UserError
from ft_pipeline.execution.local_forms import read_form, refuse, show
from ft_pipeline.ratings.pairs import CHOICES, Match, Pair
from ft_pipeline.ratings.raters import NOTE_CHARACTERS, clean_note, describe_masked
from ft_pipeline.ratings.rating_ledger import Rating
from ft_pipeline.ratings.results import next_step

TEMPLATES = Path(__file__).parent / "templates"


class RatingPage:
    """Asks one rater about the pairs of a match, in order, and shows the result after the last one."""

    def __init__(self, match: Match, rater: str, number: int, on_end: Callable[[], None]) -> None:
        """on_end: called when the result was shown."""
        self.match = match
        self.rater = rater
        self.number = number
        self.on_end = on_end
        self._shown: dict[str, float] = {}
        """By item, when its pair was shown first."""

    def app(self) -> Starlette:
        """Return the web application."""
        routes = [
            Route("/", self._show),
            Route("/verdict", self._rate, methods=["POST"]),
            Route("/result", self._end, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={UserError: refuse})

    def is_complete(self) -> bool:
        """Return whether the rater has rated all pairs."""
        pairs, own = self._state()
        return all(pair.item in own for pair in pairs)

    def _state(self) -> tuple[list[Pair], dict[str, Rating]]:
        """Return the pairs of the rater in order, and the verdicts by item."""
        ratings = self.match.ratings()
        own = {rating.item: rating for rating in ratings if rating.rater == self.rater}
        return self.match.pairs_for(self.rater, self.number, ratings), own

    def _show(self, request: Request) -> Response:
        """Show the pair that is asked for, or the next one."""
        pairs, own = self._state()
        message = describe_masked(request.query_params.get("masked", "").split(","))
        wanted = request.query_params.get("item")
        open_pairs = [pair for pair in pairs if pair.item not in own]
        pair = next((pair for pair in pairs if pair.item == wanted), open_pairs[0] if open_pairs else None)
        progress: dict[str, Any] = {"done": len(pairs) - len(open_pairs), "of": len(pairs), "message": message}
        if pair is None:
            return show(TEMPLATES, "done.html.jinja", back=pairs[-1].item if pairs else None, **progress)
        self._shown.setdefault(pair.item, time.monotonic())
        position = pairs.index(pair)
        rating = own.get(pair.item)
        return show(
            TEMPLATES,
            "pair.html.jinja",
            pair=pair,
            answers=[pair.answers[self.match.name_at(side, pair, self.rater)] for side in (1, 2)],
            back=pairs[position - 1].item if position and pairs[position - 1].item in own else None,
            chosen=self.match.choice_of(rating, pair) if rating else None,
            note=(rating.note if rating else None) or "",
            note_characters=NOTE_CHARACTERS,
            position=position + 1,
            **progress,
        )

    async def _rate(self, request: Request) -> Response:
        """Record a verdict, and go on with the next pair."""
        form = await read_form(request)
        return await run_in_threadpool(self._record, form)

    def _record(self, form: dict[str, str]) -> Response:
        pair = self.match.by_item.get(form.get("item", ""))
        verdict = self.match.verdict_of(form.get("verdict", ""), pair, self.rater) if pair else None
        if pair is None or verdict is None:
            raise UserError(f"This is no verdict about one of the pairs. Choose {CHOICES} on the page.")
        note, masked = clean_note(form.get("note", ""))
        _, own = self._state()
        last = own.get(pair.item)
        if last is None or (last.verdict, last.note) != (verdict, note):  # a form that is sent twice counts once
            begun = self._shown.pop(pair.item, None)
            seconds = round(time.monotonic() - begun, 1) if begun is not None else None
            self.match.rate(pair, self.rater, verdict, note=note, seconds=seconds)
        query = f"?{urlencode({'masked': ','.join(masked)})}" if masked else ""
        return RedirectResponse(f"/{query}", status_code=303)

    def _end(self, request: Request) -> Response:
        """Show the result with the names of the models, and end."""
        pairs, own = self._state()
        if any(pair.item not in own for pair in pairs):
            return RedirectResponse("/", status_code=303)
        result = self.match.result()
        lines = [*result.lines(), *identical_lines(self.match)]
        done = BackgroundTask(self.on_end)
        return show(
            TEMPLATES,
            "result.html.jinja",
            background=done,
            result=result,
            lines=lines,
            next_step=next_step(result, len(self.match.pairs)),
        )


def identical_lines(match: Match) -> Sequence[str]:
    """Return how many test items were not asked because both answers are the same."""
    return [f"{match.identical} more test items have the same answer twice. They are ties."] if match.identical else []
