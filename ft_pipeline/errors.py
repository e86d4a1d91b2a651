"""The only exception that users see, the one for an absent extra, and the first line of the message of any other."""

import importlib.util


class UserError(Exception):
    """An error that the user can fix. The message names the wrong value and the fix.

    Shown without a traceback in the terminal and in the Dagster UI.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def require_extra(extra: str, needs: str, *modules: str) -> None:
    """Raise UserError without an extra of the package. needs: subject and verb. modules: what the extra installs."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise UserError(f"{needs} the extra `{extra}`. Run: pip install 'ft-pipeline[{extra}]'")
