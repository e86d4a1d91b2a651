"""The verdict in a judge's reply."""

import json
from collections.abc import Iterator
from typing import Any, Literal

Verdict = Literal["1", "2", "same"]
VERDICTS: tuple[Verdict, ...] = ("1", "2", "same")
_DECODER = json.JSONDecoder()


def read_verdict(reply: str) -> Verdict | None:
    """Return the verdict of a reply; None unless it has exactly one.

    Text around the JSON object is ignored, such as a code fence. A brace that begins no JSON object makes the reply
    unreadable: what follows it may be a quotation from an answer.
    """
    try:
        found = {_verdict_of(document) for document in _objects_in(reply) if "better" in document}
    except (ValueError, RecursionError):
        return None
    return found.pop() if len(found) == 1 else None


def _verdict_of(document: dict[str, Any]) -> Verdict | None:
    value = document["better"]
    text = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    return next((verdict for verdict in VERDICTS if text in (verdict, f"answer {verdict}")), None)


def _objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in a text. ValueError at a brace that begins none."""
    start = text.find("{")
    while start >= 0:
        document, end = _DECODER.raw_decode(text, start)
        yield document
        start = text.find("{", end)
