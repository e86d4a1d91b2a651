"""Texts that look like a secret. Settings may not contain one: they are stored, shown and hashed into specs."""

import re
from typing import Any

_SHAPES = {
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    "a key of OpenAI's or Anthropic's kind": r"\bsk-(?=[\w-]{0,60}\w{16})",
    "a token of the Hugging Face Hub": r"\bhf_[A-Za-z0-9]{20}",
    "a token of GitHub": r"\b(gh[pousr]|github_pat)_\w{20}",
    "a token of GitLab": r"\bglpat-[\w-]{20}",
    "a key of AWS": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a token of Slack": r"\bxox[abeprs]-[\w-]{10}|hooks\.slack\.com/services/\w{1,20}/",
    "a signed token": r"\beyJ[\w-]{10,300}\.eyJ[\w-]{10}",
    "a bearer token": r"\b[Bb]earer\s{1,8}(?=\S{0,100}\d)[\w.~+/-]{8}",
    "an address with a password": r"://[^\s/:@]{0,100}:[^\s/@]{1,200}@|https?://[^\s/@]{1,200}@",
    "an address with a key": r"://\S{1,300}?[?&]([\w-]{0,30}[_-])?(?i:token|key|apikey|secret|password|passwd|pwd|auth|sig"
    r"|signature|credential)=[^\s&#]",
}
"""What it is → how it looks. Repetitions have limits, so that no text takes long."""
_NAME = re.compile(
    r"(.*[_-])?(api[_-]?key|access[_-]?key|secret[_-]?key|secret|password|passwd|authorization|credentials?)"
    r"|(.*[_-])?(api|access|auth|bearer|hf|hub|hugging_?face|refresh|session)[_-]?token|token",
    re.IGNORECASE,
)
"""Names of keys whose value is a secret, whatever it looks like. `pad_token` and `max_new_tokens` are none."""
_KEY = re.compile(r"([\w-]{1,80})[\"']?[ \t]{0,8}:")
_LOOKS = re.compile("|".join(f"(?P<_{number}>{shape})" for number, shape in enumerate(_SHAPES.values())))


def may_contain_secret(text: str) -> bool:
    """Return whether it is worth parsing a YAML text to find a secret in its values."""
    return _LOOKS.search(text) is not None or any(map(_NAME.fullmatch, set(_KEY.findall(text))))


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
