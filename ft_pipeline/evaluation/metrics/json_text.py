"""Find the JSON object in an answer.

The rule: the first JSON object that begins anywhere in the text. So a code fence around it does not matter, nor does
text before and after it. Whether the answer is nothing but JSON is what `format_valid` and `answer_format` say.
"""

from typing import Any

from ft_pipeline.models.tool_call_values import first_json

_MAX_STARTS = 50
"""Number of braces at which an object is looked for: an answer of nothing but braces would take too long."""


def find_object(text: str) -> dict[str, Any] | None:
    """Return the first JSON object in a text; None if there is none."""
    position = -1
    for _ in range(_MAX_STARTS):
        position = text.find("{", position + 1)
        if position < 0:
            return None
        if found := first_json(text, position):
            return dict(found[0])
    return None


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object, with nothing around it."""
    found = first_json(text, 0)
    return found is not None and isinstance(found[0], dict) and not text[found[1] :].strip()
