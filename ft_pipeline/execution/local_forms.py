"""Pages of LocalPage on which a person decides: one HTML form at a time. They work without scripts."""

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ft_pipeline.errors import UserError
from ft_pipeline.release.report.answers import escape_invisible

MAX_BODY_BYTES = 64_000
"""Largest form: a note, the id of an item, and a verdict."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
SHARED = Path(__file__).parent / "templates"


def show(
    folder: Path, name: str, background: BackgroundTask | None = None, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page. folder: of its template, which may extend base.html.jinja."""
    html = _templates(folder).get_template(name).render(**values)
    return HTMLResponse(html, status_code=status_code, headers=HEADERS, background=background)


def refuse(request: Request, error: Exception) -> Response:
    """Return the page of an error of a user: an exception handler of Starlette."""
    return show(SHARED, "refused.html.jinja", status_code=409, message=str(error))


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. UserError if it is too large, or not text."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise UserError(f"The form has more than {MAX_BODY_BYTES:,} bytes. Shorten the note.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=10)
    except ValueError:
        raise UserError("The form cannot be read. Send it with the page that `ft` opened.") from None
    return {name: values[-1] for name, values in fields.items()}


@cache
def _templates(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,  # texts come from users and models
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=escape_invisible,
    )
