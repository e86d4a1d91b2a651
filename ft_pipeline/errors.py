"""The one error that users see."""


class UserError(Exception):
    """Something the user can mend: the message names the value that was seen and what to do about it.

    Shown without a traceback in the terminal and in the Dagster UI.
    """
