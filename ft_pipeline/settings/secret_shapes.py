"""Texts that look like a secret. Settings may not contain one: they are stored, shown and hashed into specs."""

import re
from typing import Any

_SHAPES = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of OpenAI's or Anthropic's kind": r"\bsk-(?=[\w-]*\w{16})[\w-]+",
    "a token of the Hugging Face Hub": r"\bhf_[A-Za-z0-9]{20,}",
    "a token of GitHub": r"\b(gh[pousr]|github_pat)_\w{20,}",
    "a token of GitLab": r"\bglpat-[\w-]{20,}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a token of Slack": r"\bxox[abeprs]-[\w-]{10,}|hooks\.slack\.com/services/\w+/",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}",
    "a bearer token": r"(?i:\bbearer)\s+(?=\S*\d)[\w.~+/-]{8,}",
    "an address with a password": r"\w://[^\s/:@]*:[^\s/@]+@|https?://[^\s/@]+@",
    "an address with a key": r"(?i:\w://[^\s?]*\?(\S*&)?([\w-]*[_-])?(token|key|apikey|secret|password|passwd|pwd|auth"
    r"|sig|signature|credential)=[^\s&#])",
}
"""What it is → how it looks."""
_NAME = re.compile(
    r"(.*[_-])?(api[_-]?key|access[_-]?key|secret[_-]?key|secret|password|passwd|authorization|credentials?)"
    r"|(.*[_-])?(api|access|auth|bearer|hf|hub|hugging_?face|refresh|session)[_-]?token|token",
    re.IGNORECASE,
)
"""Names of keys whose value is a secret, whatever it looks like. `pad_token` and `max_new_tokens` are none."""
_LOOKS = re.compile("|".join(f"(?P<_{number}>{shape})" for number, shape in enumerate(_SHAPES.values())))


def find_secret(value: Any, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], str] | None:
    """Return where in a document something looks like a secret, and what, in words that do not repeat it; else None."""
    if isinstance(value, str):
        if what := _describe(value):
            return path, what
        return (path, "a key or a password") if value and path and _NAME.fullmatch(path[-1]) else None
    if isinstance(value, dict):
        if what := next(filter(None, map(_describe, map(str, value))), None):
            return path, what
        return next(filter(None, (find_secret(item, (*path, str(key))) for key, item in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (find_secret(item, (*path, str(number))) for number, item in enumerate(value))), None)
    return None


def _describe(text: str) -> str | None:
    found = _LOOKS.search(text)
    return next(name for number, name in enumerate(_SHAPES) if found[f"_{number}"]) if found else None
