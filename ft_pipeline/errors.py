"""The one error that users see, and others in one line."""


class UserError(Exception):
    """Something the user can mend: the message names the value that was seen and what to do about it.

    Shown without a traceback in the terminal and in the Dagster UI.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
