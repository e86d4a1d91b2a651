"""How many examples a law is tried on: few at each change, and ten times as many in `make nightly`."""

import os
from typing import Any

from hypothesis import settings

TIMES = int(os.environ.get("FT_TIMES_EXAMPLES", "1"))
"""How many times the usual number of examples. Each run draws other ones."""
USUAL = 30
"""The number for a law that names none."""


def examples(count: int, **more: Any) -> settings:
    """Return the settings of a law; count: the usual number of its examples."""
    return settings(deadline=None, max_examples=count * TIMES, **more)


def load_profile() -> None:
    """Use these numbers in laws without settings, too."""
    settings.register_profile("usual", examples(USUAL))
    settings.load_profile("usual")
