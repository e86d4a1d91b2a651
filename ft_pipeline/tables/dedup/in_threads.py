"""Work in threads: numpy and Arrow release the lock of Python, and processes would each need the arrays."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """Return the number of threads that work at a time."""
    return min(os.cpu_count() or 1, MAX_THREADS)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return work(item) of each item, in their order."""
    with ThreadPoolExecutor(thread_count()) as threads:
        return list(threads.map(work, items))
