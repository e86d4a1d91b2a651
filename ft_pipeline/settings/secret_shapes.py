"""Texts that look like a secret. Settings may not contain one: they are stored, shown and hashed into specs."""

import re
from typing import Any


def _run(length: int) -> str:
    """Return the shape of letters and digits without a separator, of two kinds at least: a word has one."""
    some = "(?=[A-Za-z0-9]{0,60}"
    return rf"(?:{some}\d){some}[A-Za-z])|{some}[a-z]){some}[A-Z]))[A-Za-z0-9]{{{length}}}"


_TOKENS = {
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    "a key of OpenAI's or Anthropic's kind": r"\bsk-(?:(?:proj|svcacct|admin|ant|or|lf)-(?=[\w-]{0,60}\d)[\w-]{32}"
    rf"|(?=[A-Za-z]{{0,60}}\d){_run(32)})",
    "a token of the Hugging Face Hub": rf"\bhf_{_run(20)}",
    "a token of GitHub": rf"\b(?:gh[pousr]|github_pat)_{_run(20)}",
    "a token of GitLab": r"\bglpat-(?=[\w-]{0,20}[A-Z0-9])[\w-]{20}",
    "a token of npm": rf"\bnpm_{_run(20)}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza(?=[\w-]{0,35}[A-Z0-9])[\w-]{35}",
    "a key of Groq": rf"\bgsk_{_run(20)}",
    "a key of NVIDIA": r"\bnvapi-(?=[\w-]{0,60}\d)(?=[\w-]{0,60}[A-Z])[\w-]{20}",
    "a key of xAI": rf"\bxai-{_run(20)}",
    "a token of Slack": r"\bxox[abeprs]-(?=[\w-]{0,60}\d)[\w-]{10}"
    rf"|hooks\.slack\.com/services/\w{{1,20}}/\w{{1,20}}/{_run(16)}",
    "a signed token": r"\beyJ[\w-]{10,300}\.eyJ[\w-]{10}",
}
"""What it is → its unmistakable shape, which counts in every text. Repetitions have limits: no text takes long."""
_CARRIERS = {
    "a bearer token": (r"\b[Bb]earer\s{1,8}(?P<key>[\w.~+/-]{8,300})",),
    "an address with a password": (
        r"://[^\s/:@]{0,100}:(?P<key>[^\s/@]{1,200})@",
        r"https?://(?P<key>[^\s/:@]{1,200})@",
    ),
    "an address with a key": (
        r"[?&](?:[\w-]{0,30}[_-])?(?i:token|key|apikey|secret|password|passwd|pwd|auth|sig|signature|credential)"
        r"=(?P<key>[^\s&#]{1,300})",
    ),
}
"""What it is → where a key of any shape stands. In prose, which may explain how to write one, it must look random."""
_RANDOM = re.compile(r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z]).{16,}")
_PLACEHOLDER = re.compile(
    r"(?i:password|passwd|pwd|pass|secret|token|key|api[_-]?key|none|null|false|true|changeme|your[_ -].*|x{3,}|\*{3,})"
    r"|\.{3}|…|\$?\{[^{}]*\}|\{\{[^{}]*\}\}|\$[A-Z_]+|<[^<>]*>"
)
"""What people write where a secret belongs."""
_NAME = re.compile(
    r"(.*[_-])?(api[_-]?keys?|access[_-]?keys?|secret[_-]?keys?|private[_-]?keys?|secret|password|passwd|passphrase"
    r"|authorization|credentials?)"
    r"|(.*[_-])?(api|access|auth|bearer|hf|hub|hugging_?face|refresh|session)[_-]?token|token",
    re.IGNORECASE,
)
"""Names of keys whose value is a secret, whatever it looks like. `pad_token` and `max_new_tokens` are none."""
_NAMED_BY_USER = frozenset({"metrics", "fields", "call_arguments", "rewards", "licenses"})
"""Settings whose keys are names of the user's own things, so that they say nothing of the values."""
_MIN_NUMBER = 1000
"""Smallest number that can be a password."""
_KEY = re.compile(r"([\w-]{1,80})[\"']?[ \t]{0,8}:")
_TOKEN = re.compile("|".join(f"(?P<_{number}>{shape})" for number, shape in enumerate(_TOKENS.values())))
_CARRIER = [(what, re.compile(shape)) for what, shapes in _CARRIERS.items() for shape in shapes]


def may_contain_secret(text: str) -> bool:
    """Return whether it is worth parsing a YAML text to find a secret in its values."""
    shapes = (_TOKEN, *(shape for _, shape in _CARRIER))
    return any(shape.search(text) for shape in shapes) or any(map(_NAME.fullmatch, set(_KEY.findall(text))))


def find_secret(value: Any, path: tuple[str, ...] = (), *, named: bool = False) -> tuple[tuple[str, ...], str] | None:
    """Return where in a document something looks like a secret, and what, in words that do not repeat it; else None.

    named: the name of the value says that it is one.
    """
    if isinstance(value, dict):
        if what := next(filter(None, map(_describe, map(str, value))), None):
            return path, what
        names_count = not _NAMED_BY_USER.intersection(path[-1:])
        items = ((item, str(key), names_count and _NAME.fullmatch(str(key)) is not None) for key, item in value.items())
    elif isinstance(value, list):
        items = ((item, str(number), named) for number, item in enumerate(value))
    else:
        what = _describe(value) if isinstance(value, str) else None
        what = what or ("a key or a password" if named and _may_be_password(value) else None)
        return (path, what) if what else None
    found = (find_secret(item, (*path, key), named=is_secret) for item, key, is_secret in items)
    return next(filter(None, found), None)


def _may_be_password(value: Any) -> bool:
    if isinstance(value, str):
        return value != "" and not _PLACEHOLDER.fullmatch(value)
    return isinstance(value, int | float) and abs(value) >= _MIN_NUMBER


def _describe(text: str) -> str | None:
    if found := _TOKEN.search(text):
        return next(what for number, what in enumerate(_TOKENS) if found[f"_{number}"])
    is_prose = len(text.split()) > 1
    for what, shape in _CARRIER:
        for found in shape.finditer(text):
            if _RANDOM.fullmatch(found["key"]) if is_prose else not _PLACEHOLDER.fullmatch(found["key"]):
                return what
    return None
