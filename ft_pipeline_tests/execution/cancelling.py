"""A run that is cancelled at the first progress that its worker reports."""


class Cancelled(BaseException):
    """Raised where a run is interrupted."""


def cancel(_: object) -> None:
    """A listener to progress."""
    raise Cancelled
