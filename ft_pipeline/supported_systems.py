"""Operating systems that the package runs on: Linux, WSL 2 included, and macOS.

It needs POSIX: `fork`, process groups, file locks and signals (execution/workers/process_guard.py, store/locks.py).
"""

import sys

WINDOWS_MESSAGE = "Windows is not supported natively. Run it in WSL 2 or in Docker (docs/deploy.md)."


def unsupported_system_message() -> str | None:
    """Return why this package does not run on this system, and what to do; None if it runs.

    Entry points call this before they import modules that only POSIX has.
    """
    return WINDOWS_MESSAGE if sys.platform == "win32" else None
