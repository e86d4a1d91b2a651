"""A run that is cancelled by a listener to the progress of its worker."""

from collections.abc import Callable

from ft_pipeline.events import Progress


class Cancelled(BaseException):
    """Raised where a run is interrupted."""


def cancel_at(step: int) -> Callable[[Progress], None]:
    """A listener that cancels at the first report of this step, or a later one."""

    def listener(progress: Progress) -> None:
        if progress.step >= step:
            raise Cancelled

    return listener


cancel = cancel_at(0)
"""Cancels at the first report."""
