"""Work on batches in several processes, in order, where there is enough of it to pay for starting them."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

MIN_BYTES = 48 << 20
MAX_WORKERS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_batches(work: Callable[[Item], Result], items: Iterator[Item], size: int) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) in order. `size`: bytes of all items. A few are under way at a time, never all."""
    workers = min(os.cpu_count() or 1, MAX_WORKERS)
    if size < MIN_BYTES or workers < 2:
        for item in items:
            yield item, work(item)
        return
    # spawn: a fork of a process with threads (Dagster's, Arrow's) may never come back.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        under_way: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                under_way.append((item, pool.submit(work, item)))
                if len(under_way) > workers + 1:
                    done, future = under_way.popleft()
                    yield done, future.result()
            while under_way:
                done, future = under_way.popleft()
                yield done, future.result()
        finally:
            for _, future in under_way:
                future.cancel()
