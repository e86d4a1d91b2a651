"""The only exception that users see, and the first line of the message of any other."""


class UserError(Exception):
    """An error that the user can fix. The message names the wrong value and the fix.

    Shown without a traceback in the terminal and in the Dagster UI.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
